/** What a kill -9 and a damaged store do to acknowledged commits and to followers, on a real broker. */
import { readdir, rm, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { jetstreamManager } from "@nats-io/jetstream";
import { connect } from "nats";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { logNames } from "@millrace/schemas";
import { startOf, stepOf } from "../conformance/sample-append.ts";
import { startTestBroker, type TestBroker } from "../conformance/test-broker.ts";
import type { EventLog, FollowStatus } from "../event-log.ts";
import { openEventLog } from "./open-event-log.ts";

const deadline = { timeout: 30_000, interval: 20 };
const namespace = "crash";
let broker: TestBroker;
const opened: EventLog[] = [];

async function open(): Promise<EventLog> {
  const log = await openEventLog({ servers: broker.url, namespace, appendTimeoutMs: 1_000 });
  opened.push(log);
  return log;
}

beforeEach(async () => {
  broker = await startTestBroker();
});
afterEach(async () => {
  await Promise.all(opened.splice(0).map((log) => log.close()));
  await broker.stop();
});

test("L1, L2, L4: kill -9 under concurrent load: nothing acknowledged is lost, nothing is there twice", async () => {
  const [one, two, reader] = [await open(), await open(), await open()];
  const delivered: { sequence: number; commitId: string }[] = [];
  await reader.follow({
    after: 0,
    onCommit: ({ sequence, commitId }) => void delivered.push({ sequence, commitId }),
  });
  const acknowledged = new Map<string, number>();
  const stopping = new AbortController();
  const writers = Array.from({ length: 32 }, async (_, writer) => {
    const log = writer % 2 === 0 ? one : two;
    for (let run = 0; !stopping.signal.aborted; run++) {
      const id = `order-${writer}-${run}`;
      let request = startOf(id);
      for (let commit = 0; commit < 5 && !stopping.signal.aborted; commit++) {
        const answer = await log.append(request);
        expect(acknowledged.has(request.commitId)).toBe(false);
        acknowledged.set(request.commitId, answer.sequence);
        request = stepOf(id, answer.sequence);
      }
    }
  });
  for (let kills = 1; kills <= 3; kills++) {
    const before = acknowledged.size;
    await vi.waitFor(() => expect(acknowledged.size).toBeGreaterThan(before + 500), deadline);
    await broker.kill();
    await broker.start();
  }
  const after = acknowledged.size;
  await vi.waitFor(() => expect(acknowledged.size).toBeGreaterThan(after + 500), deadline);
  stopping.abort();
  await Promise.all(writers);

  const { lastSequence } = await reader.info();
  await vi.waitFor(() => expect(delivered.at(-1)?.sequence).toBe(lastSequence), deadline);
  const stored = new Map(delivered.map(({ sequence, commitId }) => [commitId, sequence]));
  expect(delivered.map(({ sequence }) => sequence)).toEqual(
    Array.from({ length: lastSequence }, (_, index) => index + 1),
  );
  expect(stored.size, "a commit is stored twice").toBe(lastSequence);
  // Every append was settled, so what is stored is exactly what was acknowledged, each where it was said to be.
  const bySequence = (a: [string, number], b: [string, number]): number => a[1] - b[1];
  expect([...stored].sort(bySequence)).toEqual([...acknowledged].sort(bySequence));
});

test("a store that lost its newest bytes: verify says diverged, the follower reports it and delivers nothing more", async () => {
  const log = await open();
  let sequence = 0;
  for (let index = 0; index < 100; index++) {
    ({ sequence } = await log.append(index === 0 ? startOf("order-1") : stepOf("order-1", sequence)));
  }
  const statuses: FollowStatus[] = [];
  const delivered: number[] = [];
  await log.follow({
    after: 0,
    onCommit: (commit) => void delivered.push(commit.sequence),
    onStatus: (status) => void statuses.push(status),
  });
  await vi.waitFor(() => expect(delivered).toHaveLength(100), deadline);
  const { created } = await log.info();
  const commitId = (await log.read(100))?.commitId ?? "";
  const checkpoint = { sequence: 100, commitId, streamCreated: created };
  expect(await log.verify(checkpoint)).toBe("ok");

  await broker.kill();
  await cutNewestBlock();
  await broker.start();
  const writer = await open();
  const survived = (await writer.info()).lastSequence;
  expect(survived).toBeGreaterThan(0);
  expect(survived).toBeLessThan(100);
  expect((await writer.info()).created).toBe(created);
  expect(await writer.verify(checkpoint)).toBe("diverged");
  for (let last = survived; last < 110;) ({ sequence: last } = await writer.append(stepOf("order-1", last)));

  expect(await writer.verify(checkpoint)).toBe("diverged");
  await vi.waitFor(() => expect(statuses.at(-1)).toBe("diverged"), deadline);
  expect(delivered).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
});

test(
  "I2: a stream deleted and made anew while connected is reported, not followed",
  { timeout: 90_000 },
  async () => {
    const log = await open();
    await log.append(startOf("order-1"));
    const statuses: FollowStatus[] = [];
    const delivered: number[] = [];
    await log.follow({
      after: 0,
      onCommit: (commit) => void delivered.push(commit.sequence),
      onStatus: (status) => void statuses.push(status),
    });
    await vi.waitFor(() => expect(delivered).toEqual([1]), deadline);
    const connection = await connect({ servers: broker.url });
    await (await jetstreamManager(connection)).streams.delete(logNames(namespace).stream);
    await connection.close();
    const writer = await open();
    for (let index = 0; index < 5; index++) await writer.append(startOf(`later-${index}`));
    await vi.waitFor(() => expect(statuses.at(-1)).toBe("recreated"), { timeout: 60_000, interval: 50 });
    expect(delivered).toEqual([1]);
    expect(log.status()).toBe("recreated");
  },
);

/** What a power cut does to a store that was not flushed: the newest block ends early, the index is older. */
async function cutNewestBlock(): Promise<void> {
  const folder = join(broker.storeDir, "jetstream", "$G", "streams", logNames(namespace).stream, "msgs");
  const files = await readdir(folder);
  const newest = files
    .filter((file) => file.endsWith(".blk"))
    .sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10))
    .at(-1);
  if (newest === undefined) throw new Error(`No block in ${folder}.`);
  const { size } = await stat(join(folder, newest));
  await truncate(join(folder, newest), Math.floor(size * 0.7));
  await rm(join(folder, "index.db"), { force: true });
}
