import { createMemoryLog, createMemoryServer } from "@millrace/event-log";
import { describeEnginePayloads } from "./conformance/describe-engine-payloads.ts";

describeEnginePayloads("memory twin", async () => {
  const server = createMemoryServer();
  return { open: async (namespace) => createMemoryLog({ server, namespace }), stop: async () => undefined };
});
