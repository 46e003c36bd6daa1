import { createMemoryLog, createMemoryServer, type EventLog, type MemoryServer } from "@millrace/event-log";
import { MillraceError } from "@millrace/schemas";
import { afterEach, expect, test } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";
import type { Millrace } from "./millrace.ts";

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

async function connected(log: EventLog): Promise<Millrace> {
  const millrace = await connect({ log });
  open.push(millrace);
  return millrace;
}

/** A log on which the first append of a run's worker conflicts; the appends are counted in `tries`. */
function conflictingOnce(server: MemoryServer, tries: string[]): EventLog {
  const log = createMemoryLog({ server });
  return new Proxy(log, {
    get(target, key) {
      if (key === "append") {
        const append: EventLog["append"] = async (request) => {
          if (typeof request.expected !== "number") return target.append(request);
          tries.push(request.events.map(({ type }) => type).join(" "));
          if (tries.length === 1) throw new MillraceError("conflict", "Refused by the test.");
          return target.append(request);
        };
        return append;
      }
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

test("R3, R4: after a conflict the run is rebuilt, and a step's known outcome is brought again, not made again", async () => {
  const tries: string[] = [];
  const millrace = await connected(conflictingOnce(createMemoryServer(), tries));
  let calls = 0;
  const once = defineWorkflow({ type: "once" }, (ctx) => ctx.step("charge", () => ++calls));
  await millrace.worker({ workflows: [once] });
  const handle = await millrace.start(once, null);
  expect(await handle.result()).toBe(1);
  expect(calls).toBe(1);
  expect(tries).toEqual(["StepCompleted WorkflowCompleted", "StepCompleted WorkflowCompleted"]);
});

test("R3: two processes that run the same attempt record its failure once, and the next attempt once", async () => {
  const server = createMemoryServer();
  const attempts: number[] = [];
  let fail = (): void => undefined;
  const gate = new Promise<void>((resolve) => (fail = resolve));
  const shared = defineWorkflow({ type: "shared" }, (ctx) =>
    ctx.step(
      "x",
      async ({ attempt }) => {
        attempts.push(attempt);
        if (attempt > 1) return "second";
        await gate;
        throw new Error("both saw this");
      },
      { retry: { initialDelayMs: 30, jitter: "none" } },
    ),
  );
  const first = await connected(createMemoryLog({ server }));
  await first.worker({ workflows: [shared] });
  const handle = await first.start(shared, null, { id: "s" });
  await expect.poll(() => attempts).toEqual([1]);
  // A take-over whose former owner lives on: its fleet knows nothing of the other's lease.
  const second = await connected({
    ...createMemoryLog({ server }),
    leases: () => createMemoryLog().leases(),
  });
  await second.worker({ workflows: [shared] });
  await expect.poll(() => attempts).toEqual([1, 1]);
  fail();
  expect(await handle.result()).toBe("second");
  const types = (await first.log.load("s")).flatMap((commit) => commit.events.map(({ type }) => type));
  expect(types).toEqual([
    "WorkflowStarted",
    "StepRetryScheduled",
    "StepStarted",
    "StepCompleted",
    "WorkflowCompleted",
  ]);
  expect(attempts).toEqual([1, 1, 2]);
});
