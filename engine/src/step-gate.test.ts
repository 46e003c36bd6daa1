import { expect, test } from "vitest";
import { StepGate } from "./step-gate.ts";
import { StepSlots } from "./step-slots.ts";

function task(): { readonly run: () => Promise<void>; readonly end: () => void; started: boolean } {
  let end = (): void => undefined;
  const ended = new Promise<void>((resolve) => (end = resolve));
  const made = {
    started: false,
    run: () => {
      made.started = true;
      return ended;
    },
    end: () => end(),
  };
  return made;
}

test("a closed gate starts nothing, also what waited for its slot, and is closed when what runs has ended", async () => {
  const slots = new StepSlots(1);
  const [mine, other] = [new StepGate(slots), new StepGate(slots)];
  const [running, waiting, late, theirs] = [task(), task(), task(), task()];
  mine.run(running.run);
  mine.run(waiting.run);
  other.run(theirs.run);
  let closed = false;
  const closing = mine.close().then(() => (closed = true));
  mine.run(late.run);
  await Promise.resolve();
  expect(closed).toBe(false);
  running.end();
  await closing;
  await mine.close();
  await expect.poll(() => theirs.started).toBe(true);
  expect([running.started, waiting.started, late.started]).toEqual([true, false, false]);
  theirs.end();
});
