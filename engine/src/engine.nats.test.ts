/** The engine on a real broker: the same promises, with the broker killed in between. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { StoredCommit } from "@millrace/event-log";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { stepKey } from "@millrace/schemas";
import { afterAll, beforeAll, expect, test } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";
import type { Millrace } from "./millrace.ts";

let broker: Broker;
const dataDir = mkdtempSync(join(tmpdir(), "millrace-engine-"));

beforeAll(async () => {
  broker = await startBroker({ dataDir });
});

afterAll(async () => {
  await broker.stop();
  rmSync(dataDir, { recursive: true, force: true });
});

/** The broker may have been killed a moment ago: a request that was on its way then gets no answer. */
async function loadWhenBack(connection: Millrace, id: string): Promise<StoredCommit[]> {
  let history: StoredCommit[] = [];
  await expect
    .poll(
      async () => {
        history = await connection.log.load(id);
        return history.length;
      },
      { timeout: 20_000 },
    )
    .toBeGreaterThan(0);
  return history;
}

const sum = defineWorkflow({ type: "sum" }, async (ctx, input: { n: number }) => {
  const a = await ctx.step("a", () => input.n);
  const [b, c] = await Promise.all([ctx.step("b", () => a + 1), ctx.step("c", () => a + 2)]);
  return ctx.step("d", () => a + b + c);
});

test("kill -9 of the broker under load: every run ends once, every step is recorded once, results are pushed", async () => {
  const worker = await connect({ servers: broker.url, namespace: "kill" });
  const client = await connect({ servers: broker.url, namespace: "kill" });
  await worker.worker({ workflows: [sum] });
  const count = 300;
  let ended = 0;
  const killed = new Set<number>();
  const results = Array.from({ length: count }, async (_, n) => {
    const handle = await client.start(sum, { n }, { id: `sum-${n}` });
    const result = await handle.result();
    ended++;
    if ((ended === 50 || ended === 150) && !killed.has(broker.pid)) {
      killed.add(broker.pid);
      process.kill(broker.pid, "SIGKILL");
    }
    return result;
  });
  expect(await Promise.all(results)).toEqual(Array.from({ length: count }, (_, n) => 3 * n + 3));
  expect(killed.size).toBeGreaterThan(0);
  for (let n = 0; n < count; n++) {
    const events = (await loadWhenBack(client, `sum-${n}`)).flatMap((commit) => commit.events);
    const steps = events.flatMap((event) =>
      event.type === "StepCompleted" ? [stepKey(event.data.name, event.data.occurrence)] : [],
    );
    expect(steps.toSorted()).toEqual(["a", "b", "c", "d"]);
    expect(events.filter((event) => event.type === "WorkflowCompleted")).toHaveLength(1);
  }
  await worker.close();
  await client.close();
});

test("a type that a worker registered is known to every connection, also after the worker has gone", async () => {
  const worker = await connect({ servers: broker.url, namespace: "types" });
  await (await worker.worker({ workflows: [sum] })).drain();
  await worker.close();
  const client = await connect({ servers: broker.url, namespace: "types" });
  const { handle, created } = await client.startByType("sum", { n: 1 }, { id: "waits" });
  expect(created).toBe(true);
  const again = await connect({ servers: broker.url, namespace: "types" });
  await again.worker({ workflows: [sum] });
  expect(await handle.result()).toBe(6);
  await again.close();
  await client.close();
});
