import type { Cursor } from "@millrace/schemas";
import { expect, test } from "vitest";
import { ItemQueue } from "./item-queue.ts";
import { placeEntries, type PlacedItem } from "./items.ts";
import { entry } from "./testing/scripted-server.ts";

const at = (sequence: number): Cursor => ({ epoch: "9f3a", sequence });
const items = (...sequences: number[]): PlacedItem[] =>
  placeEntries(
    sequences.map((sequence) => entry(sequence)),
    at(0),
    sequences.at(-1) ?? 0,
  );
const page = (id: string, first: boolean): PlacedItem => ({
  item: { kind: "snapshot", rows: [], first, last: false, cursor: id },
  position: null,
});

function queue(): { queue: ItemQueue; handled: number[] } {
  const handled: number[] = [];
  return { queue: new ItemQueue(at(0), ({ sequence }) => handled.push(sequence)), handled };
}

const sequenceOf = (taken: Awaited<ReturnType<ItemQueue["take"]>>): unknown =>
  taken !== "done" && "item" in taken && "sequence" in taken.item ? taken.item.sequence : taken;

test("I1: items leave in order, each once, whether they or the taker came first", async () => {
  const { queue: q } = queue();
  const early = [q.take(), q.take()];
  for (const item of items(1, 2, 3)) q.push(item);
  expect((await Promise.all([...early, q.take()])).map(sequenceOf)).toEqual([1, 2, 3]);
  expect(q.size).toBe(0);
});

test("I2: an item counts as handled when the next one is asked for", async () => {
  const { queue: q, handled } = queue();
  for (const item of items(1, 2)) q.push(item);
  await q.take();
  expect(q.handled).toEqual(at(0));
  await q.take();
  expect(q.handled).toEqual(at(1));
  q.settle();
  expect(q.handled).toEqual(at(2));
  expect(handled).toEqual([1, 2]);
});

test("I2: a bookmark counts only after all before it is handled, and an item after it replaces it", async () => {
  const { queue: q, handled } = queue();
  q.bookmark(at(3));
  expect(q.handled).toEqual(at(3));
  const [five, seven] = placeEntries([entry(5), entry(7)], at(3), 7);
  if (five === undefined || seven === undefined) throw new Error("two items");
  q.push(five);
  q.bookmark(at(6));
  expect(q.handled).toEqual(at(3));
  await q.take();
  expect(q.handled).toEqual(at(3));
  q.push(seven);
  q.settle();
  expect(q.handled).toEqual(at(5));
  await q.take();
  q.bookmark(at(9));
  q.settle();
  expect(handled).toEqual([3, 5, 7, 9]);
});

test("I3: what is queued still comes before the error, which is thrown once", async () => {
  const { queue: q } = queue();
  for (const item of items(1)) q.push(item);
  const error = new Error("gone");
  q.end({ failure: { error }, discard: false });
  for (const item of items(9)) q.push(item);
  expect(sequenceOf(await q.take())).toBe(1);
  expect(await q.take()).toEqual({ error });
  expect(await q.take()).toBe("done");
});

test("I3: a discarded queue ends at once, the item in hand unhandled", async () => {
  const { queue: q, handled } = queue();
  for (const item of items(1, 2)) q.push(item);
  await q.take();
  q.bookmark(at(8));
  q.end({ discard: true });
  expect(await q.take()).toBe("done");
  expect(handled).toEqual([]);
});

test("I3: an end reaches every taker that waits", async () => {
  const { queue: q } = queue();
  const waiting = [q.take(), q.take()];
  q.end({ failure: { error: "why" }, discard: true });
  expect(await Promise.all(waiting)).toEqual([{ error: "why" }, "done"]);
});

test("a snapshot that begins anew drops the waiting pages of the one before, and only those", async () => {
  const { queue: q } = queue();
  const [event] = items(1);
  if (event === undefined) throw new Error("one item");
  q.push(event);
  q.push(page("old 1", true));
  q.push(page("old 2", false));
  q.push(page("new 1", true));
  expect(q.size).toBe(2);
  expect(sequenceOf(await q.take())).toBe(1);
  expect(await q.take()).toMatchObject({ item: { cursor: "new 1" } });
});
