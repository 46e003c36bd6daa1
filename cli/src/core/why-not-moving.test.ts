import { describe, expect, it } from "vitest";
import { evolveCommit, initialRunState, type RunState, type WorkflowEvent } from "@millrace/schemas";
import { quietMs, whyNotMoving } from "./why-not-moving.ts";

const startedAt = Date.UTC(2026, 0, 1);
const oops = { message: "oops" };
const charge = { name: "charge", occurrence: 1, attempt: 1 };

/** One commit a second. */
function run(...events: readonly WorkflowEvent[]): RunState {
  const state = initialRunState("r-1", "order");
  for (const [index, event] of events.entries()) {
    evolveCommit(state, { sequence: index + 1, at: startedAt + index * 1_000, events: [event] });
  }
  return state;
}

function started(driver: "code" | "external", plan: readonly string[] = []): WorkflowEvent {
  return { type: "WorkflowStarted", data: { version: "3", driver, plan: [...plan] } };
}

const retry: WorkflowEvent = {
  type: "StepRetryScheduled",
  data: { ...charge, error: oops, nextAttemptAt: startedAt + 60_000 },
};
const held: WorkflowEvent = { type: "StepStarted", data: { ...charge, attempt: 2, token: "t" } };
const done: WorkflowEvent = { type: "StepCompleted", data: charge };
const stuck: WorkflowEvent = {
  type: "WorkflowTurnFailed",
  data: { error: { message: "step b was asked for, a is recorded" } },
};

describe("whyNotMoving", () => {
  const soon = startedAt + 2_000;
  const late = startedAt + 120_000;

  it.each<[string, RunState, number, RegExp]>([
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
      run(started("code"), retry),
      soon,
      /^backing off until 2026-01-01T00:01:00\.000Z: step charge failed in attempt 1 \(oops\)$/,
    ],
    [
      "an attempt that was due long ago",
      run(started("code"), retry),
      late,
      /^step charge is due since 2026-01-01T00:01:00\.000Z, no news for 60 s: it runs, or no worker hosts version 3 of order$/,
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
  ])("%s", (_title, state, now, expected) => {
    expect(whyNotMoving(state, now, null) ?? "").toMatch(expected);
  });

  it("keeps quiet about code exactly until it has been silent for too long", () => {
    const state = run(started("code"), done);
    expect(whyNotMoving(state, startedAt + 1_000 + quietMs - 1, null)).toBeNull();
    expect(whyNotMoving(state, startedAt + 1_000 + quietMs, null)).not.toBeNull();
  });

  it("says at once that nobody hosts its type or version, and never when somebody does", () => {
    const state = run(started("code"), done);
    const say = (...hosted: string[]) =>
      whyNotMoving(
        state,
        late,
        hosted.map((lane) => ({ type: lane.split("@")[0] ?? "", version: lane.split("@")[1] ?? "" })),
      );
    expect(say()).toMatch(/^no worker hosts type order \(version 3\): start one/);
    expect(say("order@4", "order@5", "other@3")).toMatch(
      /^no worker hosts type order \(version 3\), only 4, 5: host/,
    );
    expect(say("order@4", "order@3")).toMatch(
      /^no news for 119 s: a step runs \(it is recorded when it ends\)$/,
    );
    expect(whyNotMoving(state, startedAt + 1_000, [])).toMatch(/^no worker hosts/);
    expect(whyNotMoving(run(started("external")), late, [])).toMatch(/^waits for a driver/);
  });

  it("stays on one line", () => {
    for (const now of [soon, late])
      expect(whyNotMoving(run(started("code"), stuck), now, null)).not.toContain("\n");
  });
});
