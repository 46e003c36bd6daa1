import { describeLeaseStore } from "../conformance/describe-lease-store.ts";
import { createJetStreamHarness } from "./jetstream-harness.ts";

describeLeaseStore("JetStream", createJetStreamHarness);
