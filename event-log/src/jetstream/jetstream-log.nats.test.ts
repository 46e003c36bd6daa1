import { describeEventLog } from "../conformance/describe-event-log.ts";
import { createJetStreamHarness } from "./jetstream-harness.ts";

describeEventLog("JetStream", createJetStreamHarness);
