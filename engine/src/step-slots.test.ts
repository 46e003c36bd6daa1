import { expect, test } from "vitest";
import { StepSlots } from "./step-slots.ts";

test("never more than the limit at once, in order, and close waits for what runs", async () => {
  const slots = new StepSlots(3);
  const order: number[] = [];
  let running = 0;
  let peak = 0;
  const ended = new Promise<void>((resolve) => {
    for (let n = 0; n < 3_000; n++) {
      slots.run(async () => {
        order.push(n);
        peak = Math.max(peak, ++running);
        await Promise.resolve();
        running--;
        if (n === 2_999) resolve();
      });
    }
  });
  await ended;
  expect(peak).toBe(3);
  expect(order).toEqual(Array.from({ length: 3_000 }, (_, n) => n));

  let release = (): void => undefined;
  slots.run(() => new Promise((resolve) => (release = resolve)));
  let closed = false;
  const closing = slots.close().then(() => (closed = true));
  slots.run(() => Promise.reject(new Error("must not start")));
  await Promise.resolve();
  expect(closed).toBe(false);
  release();
  await closing;
});
