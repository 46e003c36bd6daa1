import { createMemoryLog, type EventLog, type LogInfo } from "@millrace/event-log";
import { expect, it } from "vitest";
import { FreshInfo } from "./fresh-info.ts";

it("shares an answer only among those who asked before the question was sent", async () => {
  const inner = createMemoryLog();
  const sent: ((info: LogInfo) => void)[] = [];
  const info = await inner.info();
  const log: EventLog = { ...inner, info: () => new Promise((resolve) => sent.push(resolve)) };
  const fresh = new FreshInfo(log);
  const turns = async () => {
    for (let n = 0; n < 5; n++) await Promise.resolve();
  };

  const early = [fresh.get(), fresh.get()];
  await turns();
  expect(sent).toHaveLength(1);
  const late = [fresh.get(), fresh.get()];
  await turns();
  expect(sent).toHaveLength(1);
  sent[0]?.({ ...info, lastSequence: 1 });
  expect((await Promise.all(early)).map(({ lastSequence }) => lastSequence)).toEqual([1, 1]);
  await turns();
  expect(sent).toHaveLength(2);
  sent[1]?.({ ...info, lastSequence: 2 });
  expect((await Promise.all(late)).map(({ lastSequence }) => lastSequence)).toEqual([2, 2]);
  await inner.close();
});

it("gives a failed question to all who shared it, and asks again for the next", async () => {
  const inner = createMemoryLog();
  let failing = true;
  const log: EventLog = {
    ...inner,
    info: () => (failing ? Promise.reject(new Error("away")) : inner.info()),
  };
  const fresh = new FreshInfo(log);
  const both = await Promise.allSettled([fresh.get(), fresh.get()]);
  expect(both.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  failing = false;
  expect(await fresh.get()).toMatchObject({ lastSequence: 0 });
  await inner.close();
});
