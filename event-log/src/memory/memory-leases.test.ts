import { describeLeaseStore } from "../conformance/describe-lease-store.ts";
import { createMemoryHarness } from "./memory-harness.ts";

/** Leases of seconds in a fraction of their time: nothing here waits for a broker. */
const speed = 20;

describeLeaseStore("memory twin", async () =>
  createMemoryHarness({
    clock: () => performance.now() * speed,
    wake(delayMs, callback) {
      const timer = setTimeout(callback, delayMs / speed);
      return () => clearTimeout(timer);
    },
  }),
);
