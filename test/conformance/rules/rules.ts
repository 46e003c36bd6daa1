import type { Rule } from "../kit.ts";
import { chainRules } from "./chain-rules.ts";
import { flowRules } from "./flow-rules.ts";
import { frameRules } from "./frame-rules.ts";
import { goneRules } from "./gone-rules.ts";
import { networkRules } from "./network-rules.ts";
import { snapshotRules } from "./snapshot-rules.ts";
import { updatesRules } from "./updates-rules.ts";

export const allRules: readonly Rule[] = [
  ...chainRules,
  ...flowRules,
  ...snapshotRules,
  ...goneRules,
  ...frameRules,
  ...networkRules,
  ...updatesRules,
];
