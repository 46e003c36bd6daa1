/** A long history is copied on a real broker, in several commits, while signals come in. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { limits } from "@millrace/schemas";
import { afterAll, beforeAll, expect, test } from "vitest";
import { foldHistory } from "./commands.ts";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";

let broker: Broker;
const dataDir = mkdtempSync(join(tmpdir(), "millrace-operators-"));

beforeAll(async () => {
  broker = await startBroker({ dataDir });
});

afterAll(async () => {
  await broker.stop();
  rmSync(dataDir, { recursive: true, force: true });
});

test("a retry of a run with more events than a commit holds, and payloads larger than one", async () => {
  const millrace = await connect({ servers: broker.url, namespace: "retry" });
  const steps = limits.commitEvents + 200;
  // Ten of them make a commit full.
  const large = "x".repeat(100_000);
  let fails = true;
  let calls = 0;
  const long = defineWorkflow({ type: "long" }, async (ctx) => {
    for (let n = 0; n < steps; n++)
      await ctx.step("work", () => (++calls % 60 === 0 ? large : n), { retry: { maxAttempts: 1 } });
    await ctx.step(
      "last",
      () => {
        if (fails) throw new Error("not yet");
      },
      { retry: { maxAttempts: 1 } },
    );
    return ctx.waitForSignal("go");
  });
  await millrace.worker({ workflows: [long] });
  const handle = await millrace.start(long, null, { id: "r" });
  await expect(handle.result()).rejects.toThrow(/not yet/);
  const before = (await millrace.log.load("r")).length;
  fails = false;
  const retried = handle.retry({ reason: "mended", by: "ada" });
  // From another process, while it is being copied or after.
  const other = await connect({ servers: broker.url, namespace: "retry" });
  await expect
    .poll(
      () =>
        other
          .handle("r")
          .signal("go", "on", { id: "once" })
          .then(() => "sent", String),
      { timeout: 20_000 },
    )
    .toBe("sent");
  expect(await retried).toMatchObject({ run: 2, step: "last" });
  await expect
    .poll(async () => foldHistory(await other.log.load("r"))?.output, { timeout: 20_000 })
    .toBe("on");
  const history = await other.log.load("r");
  const state = foldHistory(history);
  expect([state?.status, state?.run, state?.steps.size]).toEqual(["completed", 2, steps + 1]);
  expect(calls).toBe(steps);
  // Fewer, larger commits than the steps took; more than one.
  const copies = history.slice(before).filter(({ events }) => events.length > 10);
  expect(copies.length).toBeGreaterThan(2);
  await Promise.all([millrace.close(), other.close()]);
});
