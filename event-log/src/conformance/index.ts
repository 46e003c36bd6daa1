export { describeBlobStore } from "./describe-blob-store.ts";
export { describeEventLog } from "./describe-event-log.ts";
export { describeLeaseStore } from "./describe-lease-store.ts";
export { describeTaskQueues, taskOf } from "./describe-task-queues.ts";
export type { AppendFault, EventLogHarness, OpenOptions } from "./event-log-harness.ts";
export { factOf, startOf, stepOf } from "./sample-append.ts";
export { startTestBroker, type TestBroker } from "./test-broker.ts";
