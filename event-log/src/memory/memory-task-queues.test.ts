import { describeTaskQueues } from "../conformance/describe-task-queues.ts";
import { createMemoryHarness } from "./memory-harness.ts";

describeTaskQueues("memory", async () => createMemoryHarness());
