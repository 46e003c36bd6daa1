import { describeTaskQueues } from "../conformance/describe-task-queues.ts";
import { createJetStreamHarness } from "./jetstream-harness.ts";

describeTaskQueues("jetstream", createJetStreamHarness);
