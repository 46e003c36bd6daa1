import { describe, expect, it } from "vitest";
import {
  evolveCommit,
  initialRunState,
  toRow,
  type RunCondition,
  type WorkflowEvent,
  type WorkflowRow,
} from "@millrace/schemas";
import { quietMs, whyNotMoving, type Surroundings } from "./why-not-moving.ts";

const startedAt = Date.UTC(2026, 0, 1);
const oops = { message: "oops" };
const charge = { name: "charge", occurrence: 1, attempt: 1 };

/** One commit a second; `condition` is what the owner declared with the last one. */
function run(...events: readonly WorkflowEvent[]): WorkflowRow {
  return declared("running", ...events);
}
function declared(condition: RunCondition, ...events: readonly WorkflowEvent[]): WorkflowRow {
  const state = initialRunState("r-1", "order");
  for (const [index, event] of events.entries()) {
    evolveCommit(state, { sequence: index + 1, at: startedAt + index * 1_000, condition, events: [event] });
  }
  return toRow(state);
}
const unknown: Surroundings = { hosted: null, queues: null };

function started(driver: "code" | "external", plan: readonly string[] = []): WorkflowEvent {
  return { type: "WorkflowStarted", data: { version: "3", driver, plan: [...plan] } };
}

const retry: WorkflowEvent = {
  type: "StepRetryScheduled",
  data: { ...charge, error: oops, nextAttemptAt: startedAt + 60_000 },
};
const held: WorkflowEvent = { type: "StepStarted", data: { ...charge, attempt: 2, token: "t" } };
const done: WorkflowEvent = { type: "StepCompleted", data: charge };
const scheduled: WorkflowEvent = {
  type: "StepScheduled",
  data: { ...charge, queue: "payments", token: "t" },
};
const stuck: WorkflowEvent = {
  type: "WorkflowTurnFailed",
  data: { error: { message: "step b was asked for, a is recorded" } },
};

describe("whyNotMoving", () => {
  const soon = startedAt + 2_000;
  const late = startedAt + 120_000;

  it.each<[string, WorkflowRow, number, RegExp]>([
    [
      "a closed run needs no reason",
      run(started("code"), { type: "WorkflowCompleted", data: {} }),
      late,
      /^$/,
    ],
    [
      "a stuck run says why and what to do",
      run(started("code"), stuck),
      soon,
      /^stuck because step b .* recorded\. .*version 3 of order.*millrace cancel r-1$/,
    ],
    ["code that has just spoken is on the move", run(started("code"), done), soon, /^$/],
    [
      "code that waits for its next attempt",
      declared("waiting", started("code"), retry),
      soon,
      /^backing off until 2026-01-01T00:01:00\.000Z: step charge failed in attempt 1 \(oops\)$/,
    ],
    [
      "an attempt that was due long ago",
      declared("waiting", started("code"), retry),
      late,
      /^step charge is due since 2026-01-01T00:01:00\.000Z \(oops\): it runs, or no worker hosts version 3 of order$/,
    ],
    [
      "a start that nobody has taken up",
      run(started("code")),
      late,
      /^nobody has recorded anything since its start, no news for 120 s: its first step still runs, or no worker hosts version 3 of order$/,
    ],
    [
      "code in a long step",
      run(started("code"), done),
      late,
      /^no news for 119 s: a step runs .*, or no worker hosts/,
    ],
    [
      "code that does not heed a cancel",
      run(started("code"), { type: "WorkflowCancelRequested", data: {} }),
      late,
      /after a cancel was requested/,
    ],
    [
      "a driver that has not begun",
      run(started("external", ["check", "decide"])),
      soon,
      /^waits for a driver to begin step check$/,
    ],
    [
      "a driver in the middle of its plan",
      run(started("external", ["charge", "decide"]), done),
      soon,
      /^waits for a driver to begin step decide$/,
    ],
    [
      "a driver at the end of its plan",
      run(started("external", ["charge"]), done),
      soon,
      /^waits for a driver: it may begin another step, or complete or fail the run$/,
    ],
    [
      "a driver that holds an attempt",
      run(started("external"), held),
      soon,
      /^waits for a driver: it began attempt 2 of step charge since 2026-01-01T00:00:01\.000Z/,
    ],
    ["a driver's step that backs off", run(started("external"), retry), soon, /^backing off until/],
    [
      "a driver's step that is due",
      run(started("external"), retry),
      late,
      /^waits for a driver: step charge can be begun again since .*\(oops\)$/,
    ],
    [
      "who holds it, since when and why",
      run(started("code"), { type: "WorkflowPaused", data: { by: "ada", reason: "audit" } }),
      soon,
      /^paused by ada since 2026-01-01T00:00:01\.000Z \(audit\), let it go on with: millrace resume r-1$/,
    ],
    [
      "a driver's run that is held",
      run(started("external"), { type: "WorkflowPaused", data: {} }),
      soon,
      /^paused since .*, let it go on/,
    ],
    [
      "a copy that was broken off",
      run(
        started("code"),
        { type: "WorkflowFailed", data: { error: oops } },
        { type: "WorkflowReset", data: { run: 2, kind: "retry", partial: true } },
      ),
      late,
      /^its history is being copied by a reset or fork; if that was broken off, repeat the command/,
    ],
    [
      "a signal, with its limit",
      declared("waiting", started("code"), {
        type: "WaitStarted",
        data: { wait: "approve#1", signal: "approve", dueAt: startedAt + 90_000 },
      }),
      soon,
      /^waits for signal approve since 2026-01-01T00:00:01\.000Z until 2026-01-01T00:01:30\.000Z, send it with: millrace signal r-1 approve$/,
    ],
    [
      "a timer, and a child",
      declared(
        "handed-off",
        started("code"),
        { type: "TimerStarted", data: { timer: "sleep#1", dueAt: startedAt + 90_000 } },
        { type: "ChildWorkflowStarted", data: { child: "r-2", type: "ship", onClose: "cancel" } },
      ),
      soon,
      /^waits for timer sleep#1, due at 2026-01-01T00:01:30\.000Z; waits for child r-2 since .*, look at it with: millrace show r-2$/,
    ],
    [
      "a timer that is late",
      declared("waiting", started("code"), {
        type: "TimerStarted",
        data: { timer: "sleep#1", dueAt: startedAt + 60_000 },
      }),
      late,
      /^timer sleep#1 is due since 2026-01-01T00:01:00\.000Z: its worker is late, or no worker hosts/,
    ],
    [
      "many things: the longest waiting first, and how many more",
      declared(
        "waiting",
        started("code"),
        ...["a", "b", "c", "d", "e"].map((timer): WorkflowEvent => ({
          type: "TimerStarted",
          data: { timer, dueAt: startedAt + 90_000 },
        })),
      ),
      soon,
      /^waits for timer a, .*; waits for timer b, .*; waits for timer c, .*; and for 2 more$/,
    ],
    [
      "a task that a worker has",
      declared("handed-off", started("code"), scheduled, {
        type: "StepStarted",
        data: { ...charge, token: "t", worker: "py-1" },
      }),
      late,
      /^task charge of queue payments runs since 2026-01-01T00:00:02\.000Z at worker py-1$/,
    ],
    [
      "a task just put into its queue",
      declared("handed-off", started("code"), scheduled),
      soon,
      /^task charge waits in queue payments since 2026-01-01T00:00:01\.000Z$/,
    ],
    [
      "a task that nobody takes",
      declared("handed-off", started("code"), scheduled),
      late,
      /^task charge waits in queue payments since .*: no worker on queue payments, or all are busy$/,
    ],
  ])("%s", (_title, state, now, expected) => {
    expect(whyNotMoving(state, now, unknown) ?? "").toMatch(expected);
  });

  it("keeps quiet about code exactly until it has been silent for too long", () => {
    const state = run(started("code"), done);
    expect(whyNotMoving(state, startedAt + 1_000 + quietMs - 1, unknown)).toBeNull();
    expect(whyNotMoving(state, startedAt + 1_000 + quietMs, unknown)).not.toBeNull();
  });

  it("says at once that nobody hosts its type or version, and never when somebody does", () => {
    const state = run(started("code"), done);
    const say = (...hosted: string[]) =>
      whyNotMoving(state, late, {
        hosted: hosted.map((lane) => ({ type: lane.split("@")[0] ?? "", version: lane.split("@")[1] ?? "" })),
        queues: null,
      });
    expect(say()).toMatch(/^no worker hosts type order \(version 3\): start one/);
    expect(say("order@4", "order@5", "other@3")).toMatch(
      /^no worker hosts type order \(version 3\), only 4, 5: host/,
    );
    expect(say("order@4", "order@3")).toMatch(
      /^no news for 119 s: a step runs \(it is recorded when it ends\)$/,
    );
    expect(whyNotMoving(state, startedAt + 1_000, { hosted: [], queues: null })).toMatch(/^no worker hosts/);
    expect(whyNotMoving(run(started("external")), late, { hosted: [], queues: null })).toMatch(
      /^waits for a driver/,
    );
  });

  it("tells a queue without workers from one whose workers are busy", () => {
    const row = declared("handed-off", started("code"), scheduled);
    const say = (inFlight: number) =>
      whyNotMoving(row, late, { hosted: null, queues: [{ queue: "payments", depth: 7, inFlight }] });
    expect(say(0)).toMatch(/: no worker on queue payments takes tasks, 7 wait$/);
    expect(say(3)).toMatch(/: 3 others are being worked on, 7 wait$/);
  });

  it("stays on one line", () => {
    for (const now of [soon, late])
      expect(whyNotMoving(run(started("code"), stuck), now, unknown)).not.toContain("\n");
  });
});
