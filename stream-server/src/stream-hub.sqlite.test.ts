import { afterEach, expect, it } from "vitest";
import { memoryWorld, progress, started, stepCompleted, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

it("a snapshot of a projector that is behind: what came after it follows, from its own sequence on", async () => {
  world = await memoryWorld();
  await world.append("a", "order", [started()]);
  const projected = await world.append("a", "order", [progress("projected")]);
  await world.projection.waitFor(projected, 2_000);
  await world.projector.stop();
  const live = await world.client();
  live.subscribe({ i: 1 });
  await live.next("live");
  const after = [
    await world.append("a", "order", [progress("one more")]),
    await world.append("a", "order", [progress("and another")]),
  ];
  await live.until(() => live.cursors.get(1) === after[1], "the head");
  const client = await world.client();
  client.subscribe({ i: 1, from: "snapshot", shape: "state" });
  expect(await client.next("subbed")).toMatchObject({ mode: "snapshot", s: projected, head: after[1] });
  expect((await client.next("snap")).rows).toMatchObject([{ id: "a", message: "projected" }]);
  expect(await client.next("snapend")).toMatchObject({ s: projected });
  await client.next("live");
  expect(client.sequences(1)).toEqual(after);
  expect(client.alarms).toBe(0);
});

it("seam I1: the frames of a replay are one chain: each begins exactly where the one before it ended", async () => {
  world = await memoryWorld({ server: { settings: { commitsMax: 10, pageCommitsMax: 3 } } });
  let last = await world.append("a", "order", [started()]);
  for (let n = 0; n < 40; n++) {
    last = await world.append(n % 2 === 0 ? "a" : "b", "order", [n === 1 ? started() : progress(`${n}`)]);
  }
  await world.projection.waitFor(last, 2_000);
  for (const filter of [{}, { workflow: ["b"] }]) {
    const client = await world.client();
    client.subscribe({ i: 1, from: "start", filter });
    await client.next("live");
    const chain = client.frames.filter((frame) => frame.t === "ev" || frame.t === "bm");
    expect(chain.length).toBeGreaterThan(5);
    expect(chain.map(({ p }) => p)).toEqual([0, ...chain.slice(0, -1).map(({ s }) => s)]);
    expect(chain.at(-1)?.s).toBe(last);
  }
});

it("all buffers together have a budget: over it the largest is demoted, and gets everything later", async () => {
  // No connection is slow by its own limit here.
  const settings = { highBytes: 1e9, bufferedBytesMax: 200_000 };
  world = await memoryWorld({ server: { settings } });
  const slow = await world.client();
  slow.subscribe({ i: 1 });
  await slow.next("live");
  slow.pause();
  const big = "x".repeat(500_000);
  let last = await world.append("a", "order", [started()]);
  for (let n = 0; n < 20; n++) last = await world.append("a", "order", [stepCompleted(`s${n}`, big)]);
  const metrics = async () => (await fetch(`${world.server.url}/metrics`)).text();
  await expect.poll(metrics, { timeout: 10_000 }).toMatch(/millrace_demotions_total\{reason="slow"\} [1-9]/);
  slow.resume();
  await slow.until(() => slow.cursors.get(1) === last, "the last", 10_000);
  expect(slow.sequences(1)).toEqual(Array.from({ length: last }, (_, n) => n + 1));
  expect(slow.frames.some((frame) => frame.t === "behind" && frame.why === "slow")).toBe(true);
  expect(slow.alarms).toBe(0);
});
