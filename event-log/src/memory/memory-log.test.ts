import { describeEventLog } from "../conformance/describe-event-log.ts";
import { createMemoryHarness } from "./memory-harness.ts";

describeEventLog("memory twin", async () => createMemoryHarness());
