import type { StandardSchemaV1 } from "@standard-schema/spec";
import type { WorkflowContext } from "./context.ts";

export interface WorkflowOptions<Input> {
  /** Subject token: `[A-Za-z0-9_-]{1,64}`. */
  readonly type: string;
  /** A run stays on the version that it started with. Default "1". */
  readonly version?: string;
  /** Any Standard Schema (zod, valibot, arktype): checked at start. */
  readonly input?: StandardSchemaV1<unknown, Input>;
  /** Planned step names: gives `totalSteps` for progress. */
  readonly steps?: readonly string[];
}

export interface WorkflowDefinition<Input = unknown, Output = unknown> {
  readonly type: string;
  readonly version: string;
  readonly input: StandardSchemaV1<unknown, Input> | null;
  readonly steps: readonly string[];
  readonly run: (ctx: WorkflowContext, input: Input) => Promise<Output>;
}
