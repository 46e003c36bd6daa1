import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { openEventLog } from "@millrace/event-log";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { progress, started, startWorld, type World } from "./testing/world.ts";

let folder = "";
let broker: Broker;
let world: World;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-stream-broker-"));
  broker = await startBroker({ dataDir: folder });
});
afterAll(async () => {
  await broker.stop();
  await rm(folder, { recursive: true, force: true });
});
afterEach(() => world.close());

describe("millrace.v1 over a real broker", () => {
  it("loses nothing and repeats nothing when the broker is killed under load", async () => {
    world = await startWorld({
      log: await openEventLog({ servers: broker.url, namespace: "stream" }),
      server: { settings: { commitsMax: 100, heartbeatMs: 100 } },
    });
    const runs = ["a", "b", "c", "d"];
    for (const run of runs) await world.append(run, "order", [started()]);
    const [all, one, states] = [await world.client(), await world.client(), await world.client()];
    all.subscribe({ i: 1, from: "start" });
    one.subscribe({ i: 1, from: "start", filter: { workflow: ["b"] } });
    states.subscribe({ i: 1, from: "start", shape: "state" });
    for (const client of [all, one, states]) await client.next("live");
    let last = 0;
    const write = async (run: string) => {
      for (let n = 0; n < 150; n++) {
        last = Math.max(last, await world.append(run, "order", [progress(`${run} ${n}`)]));
        if (run === "a" && n === 50) process.kill(broker.pid, "SIGKILL");
      }
    };
    await Promise.all(runs.map(write));
    for (const client of [all, states])
      await client.until(() => client.cursors.get(1) === last, "the last", 20_000);
    const cursor = one.cursors.get(1) ?? 0;
    const history = await world.log.load("b");
    await one.until(() => one.sequences(1).length === history.length, `all of b, from ${cursor}`, 20_000);
    expect(one.sequences(1)).toEqual(history.map(({ sequence }) => sequence));
    expect(all.sequences(1)).toHaveLength(4 * 151);
    expect(new Set(all.sequences(1)).size).toBe(4 * 151);
    expect(states.sequences(1)).toEqual(all.sequences(1));
    expect(all.alarms + one.alarms + states.alarms).toBe(0);
    expect(all.frames.some((frame) => frame.t === "behind" && frame.why === "tail")).toBe(true);
  });
});
