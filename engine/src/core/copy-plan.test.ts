import {
  evolveCommit,
  initialRunState,
  toRow,
  validateEvent,
  type RunCondition,
  type RunState,
  type WorkflowEvent,
} from "@millrace/schemas";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { planFork, planReset, type ResetRequest } from "./copy-plan.ts";
import { runNumbers, type HistoryCommit } from "./run-numbers.ts";

const step = (name: string) => ({ name, occurrence: 1 });
const oops = { message: "oops" };
const started: WorkflowEvent = {
  type: "WorkflowStarted",
  data: { version: "3", driver: "code", input: { n: 1 }, attributes: { customer: 7 } },
};
const done = (name: string): WorkflowEvent => ({
  type: "StepCompleted",
  data: { ...step(name), attempt: 1, output: name },
});
const failed = (name: string): WorkflowEvent => ({
  type: "StepFailed",
  data: { ...step(name), attempt: 2, error: oops },
});
const retried = (name: string): WorkflowEvent => ({
  type: "StepRetryScheduled",
  data: { ...step(name), attempt: 1, error: oops, nextAttemptAt: 5 },
});
const scheduled = (name: string, token = "T1"): WorkflowEvent => ({
  type: "StepScheduled",
  data: { ...step(name), attempt: 1, queue: "q", token },
});
const signal = (name: string): WorkflowEvent => ({ type: "SignalReceived", data: { name } });
const runFailed: WorkflowEvent = { type: "WorkflowFailed", data: { error: oops } };
const ended: WorkflowEvent = { type: "WorkflowCompleted", data: {} };

function history(...commits: (readonly WorkflowEvent[])[]): HistoryCommit[] {
  return commits.map((events, n) => ({
    sequence: (n + 1) * 10,
    at: n,
    commitId: `C${n + 1}`,
    condition: events.every(({ type }) => type === "SignalReceived") ? null : "waiting",
    events,
  }));
}
const types = (commits: readonly (readonly WorkflowEvent[])[]) =>
  commits.map((events) =>
    events.map(({ type, data }) => ("name" in data ? `${type} ${data.name}` : type)).join(", "),
  );
const plan = (commits: HistoryCommit[], request: ResetRequest, eventsMax?: number) =>
  planReset("r", "order", commits, request, eventsMax);
function fold(commits: readonly HistoryCommit[]): RunState {
  const state = initialRunState("r", "order");
  for (const commit of commits) evolveCommit(state, commit);
  return state;
}
/** The history with commits of a plan behind it. */
function after(
  commits: readonly HistoryCommit[],
  more: readonly (readonly WorkflowEvent[])[],
  condition: RunCondition | null = "running",
): HistoryCommit[] {
  const last = commits.at(-1)?.sequence ?? 0;
  return [
    ...commits,
    ...more.map((events, n) => ({
      sequence: last + n + 1,
      at: 99,
      commitId: `M${last + n + 1}`,
      condition,
      events,
    })),
  ];
}

describe("what is kept", () => {
  test("retry: all but the failed step, of which nothing is kept; outcomes beside it stay", () => {
    const commits = history(
      [started],
      [done("a")],
      [retried("charge")],
      [signal("go")],
      [done("b")],
      [failed("charge"), runFailed],
      [signal("late")],
    );
    const { commits: got, run, step: from } = plan(commits, { kind: "retry", reason: "fixed", by: "ada" });
    expect(types(got)).toEqual([
      "WorkflowReset, WorkflowStarted, StepCompleted a, SignalReceived go, StepCompleted b, SignalReceived late",
    ]);
    expect([run, from]).toEqual([2, "charge"]);
    expect(got[0]?.[0]?.data).toEqual({ run: 2, kind: "retry", step: "charge", reason: "fixed", by: "ada" });
    const state = fold(after(commits, got));
    expect(state).toMatchObject({ status: "running", run: 2, attributes: { customer: 7 }, copying: false });
    expect([...state.steps.keys()]).toEqual(["a", "b"]);
  });

  test("retry of a run that failed by itself keeps all but its end; one that is stuck is tried again", () => {
    expect(types(plan(history([started], [done("a"), runFailed]), { kind: "retry" }).commits)).toEqual([
      "WorkflowReset, WorkflowStarted, StepCompleted a",
    ]);
    const stuck: WorkflowEvent = { type: "WorkflowTurnFailed", data: { error: oops } };
    const got = plan(history([started], [done("a")], [stuck]), { kind: "retry" });
    expect(types(got.commits)).toEqual(["WorkflowReset, WorkflowStarted, StepCompleted a"]);
    expect(fold(after(history([started]), got.commits)).status).toBe("running");
  });

  test.each([
    ["waiting", [done("a")]],
    ["completed", [ended]],
    ["cancelled", [{ type: "WorkflowCancelled", data: {} }]],
  ] as [string, WorkflowEvent[]][])("retry of a run that is %s is refused", (status, events) => {
    expect(() => plan(history([started], events), { kind: "retry" })).toThrow(
      expect.objectContaining({
        code: "workflow_not_failed",
        message: expect.stringContaining(status) as string,
      }),
    );
  });

  test("reset to a step: everything before its first event, and the signals behind", () => {
    const commits = history(
      [started],
      [done("a"), scheduled("b", "T1"), scheduled("c", "T2")],
      [signal("go")],
      [done("b"), done("d")],
      [done("c"), ended],
    );
    const { commits: got } = plan(commits, { kind: "reset", step: "d" });
    expect(types(got)).toEqual([
      "WorkflowReset, WorkflowStarted, StepCompleted a, StepScheduled b, StepScheduled c, SignalReceived go, StepCompleted b",
    ]);
    const tokens = got[0]?.filter((event) => event.type === "StepScheduled").map(({ data }) => data.token);
    // b was finished in what is kept, c was not: its worker may have ended it.
    expect(tokens).toEqual(["T1", "T2-2"]);
    expect(fold(after(commits, got))).toMatchObject({ status: "running", closedAt: null, output: null });
  });

  test("reset from the beginning keeps the start; to another version, it goes on with that", () => {
    const got = plan(history([started, signal("first")], [done("a"), ended]), {
      kind: "reset",
      version: "4",
    });
    expect(types(got.commits)).toEqual(["WorkflowReset, WorkflowStarted, SignalReceived first"]);
    expect(got.commits[0]?.[1]).toMatchObject({ data: { version: "4", input: { n: 1 } } });
  });

  test("bookkeeping is left out, a migration holds, and who paused it goes on to hold it", () => {
    const commits = history(
      [started],
      [{ type: "WorkflowMigrated", data: { from: "3", to: "5" } }],
      [done("a")],
      [{ type: "WorkflowPaused", data: { by: "ada" } }],
      [{ type: "WorkflowResumed", data: {} }],
      [{ type: "WorkflowPaused", data: { by: "bob", reason: "audit" } }],
      [done("b")],
    );
    const got = plan(commits, { kind: "reset", step: "b" });
    expect(types(got.commits)).toEqual(["WorkflowReset, WorkflowStarted, StepCompleted a, WorkflowPaused"]);
    const state = fold(after(commits, got.commits));
    expect(state).toMatchObject({ version: "5", status: "paused", paused: { by: "bob", reason: "audit" } });
  });

  test("a run that continued as new is reset within its present run number", () => {
    const commits = history(
      [started],
      [done("a"), { type: "WorkflowContinuedAsNew", data: { run: 2 } }, started],
      [done("b")],
    );
    const got = plan(commits, { kind: "reset", step: "b" });
    expect([got.run, types(got.commits)]).toEqual([3, ["WorkflowReset, WorkflowStarted"]]);
    expect(() => plan(commits, { kind: "reset", step: "a" })).toThrow(/Step a of run r was never begun/);
  });

  test("what was compensated is not kept unasked", () => {
    const commits = history(
      [started],
      [done("reserve"), { type: "CompensationRegistered", data: step("release") }],
      [failed("charge"), { type: "CompensationStarted", data: step("release") }],
      [{ type: "CompensationCompleted", data: { ...step("release"), attempt: 1 } }, runFailed],
    );
    expect(() => plan(commits, { kind: "retry" })).toThrow(
      expect.objectContaining({
        code: "reset_unsafe",
        message: expect.stringContaining("release") as string,
      }),
    );
    expect(types(plan(commits, { kind: "retry", force: true }).commits)).toEqual([
      "WorkflowReset, WorkflowStarted, StepCompleted reserve, CompensationRegistered release",
    ]);
    expect(types(plan(commits, { kind: "reset", step: "reserve" }).commits)).toEqual([
      "WorkflowReset, WorkflowStarted",
    ]);
  });

  test("a step that never was: refused, with those that were", () => {
    expect(() => plan(history([started], [done("a")]), { kind: "reset", step: "x" })).toThrow(
      expect.objectContaining({
        code: "step_not_begun",
        message: expect.stringContaining("It has: a.") as string,
      }),
    );
  });
});

describe("copies in several commits", () => {
  const long = history([started], ...["a", "b", "c", "d"].map((name) => [done(name)]), [
    failed("e"),
    runFailed,
  ]);

  test("C1: the first says that it is partial, the last that it is whole; the run is open only then", () => {
    const { commits } = plan(long, { kind: "retry" }, 3);
    expect(types(commits)).toEqual([
      "WorkflowReset, WorkflowStarted, StepCompleted a",
      "StepCompleted b, StepCompleted c, StepCompleted d",
      "HistoryCopied",
    ]);
    for (const n of [1, 2]) expect(fold(after(long, commits.slice(0, n)))).toMatchObject({ copying: true });
    expect(fold(after(long, commits))).toMatchObject({ copying: false, status: "running" });
  });

  test("C2: wherever it was broken off, the same request finishes it, and then has nothing to do", () => {
    const request: ResetRequest = { kind: "retry" };
    const { commits } = plan(long, request, 3);
    const whole = fold(after(long, commits));
    for (let n = 1; n <= commits.length; n++) {
      const broken = after(long, commits.slice(0, n));
      const rest = plan(broken, request, 3);
      expect(rest.run).toBe(2);
      const mended = after(broken, rest.commits);
      expect(toRow(fold(mended)).steps).toEqual(toRow(whole).steps);
      expect(fold(mended).copying).toBe(false);
      expect(plan(mended, request, 3).commits).toEqual([]);
      expect(plan(after(mended, [[signal("x")]], null), request, 3).commits).toEqual([]);
    }
  });

  test("C2: another request begins anew from what was there before; progress makes a repeat another one", () => {
    const { commits } = plan(long, { kind: "retry" }, 3);
    const broken = after(after(long, commits.slice(0, 1)), [[signal("meanwhile")]], null);
    const other = plan(broken, { kind: "reset", step: "c" });
    expect(other.run).toBe(3);
    expect(types(other.commits)).toEqual([
      "WorkflowReset, WorkflowStarted, StepCompleted a, StepCompleted b, SignalReceived meanwhile",
    ]);
    const reset = after(long, plan(long, { kind: "reset", step: "c" }).commits);
    expect(plan(reset, { kind: "reset", step: "c" }).commits).toEqual([]);
    expect(plan(after(reset, [[done("c")]]), { kind: "reset", step: "c" })).toMatchObject({ run: 3 });
  });

  test("C3: a signal in the middle of a copy stands behind it", () => {
    const { commits } = plan(long, { kind: "retry" }, 3);
    const first = after(long, commits.slice(0, 1));
    const interrupted = after(first, [[signal("meanwhile")]], null);
    const mended = after(interrupted, plan(interrupted, { kind: "retry" }, 3).commits);
    const present = runNumbers(mended).at(-1);
    expect(types([present?.events ?? []])).toEqual([
      "WorkflowStarted, StepCompleted a, StepCompleted b, StepCompleted c, StepCompleted d, SignalReceived meanwhile",
    ]);
    expect(present?.seed).toBe("C1");
  });

  test("any cut of any copy, interrupted anywhere by signals, ends in the state of the undisturbed one", () => {
    const name = fc.constantFrom("a", "b", "c", "d");
    const event = fc.oneof(
      name.map(done),
      name.map(retried),
      name.map(signal),
      name.map((each) => scheduled(each)),
    );
    fc.assert(
      fc.property(
        fc.array(fc.array(event, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 8 }),
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 4 }),
        (body, eventsMax, cuts) => {
          const commits = history([started], ...body, [runFailed]);
          const request: ResetRequest = { kind: "retry" };
          const undisturbed = plan(commits, request);
          for (const each of undisturbed.commits.flat()) validateEvent(each);
          let log = commits;
          let signals = 0;
          for (const cut of cuts) {
            const { commits: next } = plan(log, request, eventsMax);
            if (next.length <= cut) continue;
            log = after(after(log, next.slice(0, cut)), [[signal(`s${signals++}`)]], null);
          }
          log = after(log, plan(log, request, eventsMax).commits);
          const extra = Array.from({ length: signals }, (_, n) => [signal(`s${n}`)]);
          const wanted = after(after(commits, undisturbed.commits), extra, null);
          const events = (of: HistoryCommit[]) => runNumbers(of).at(-1)?.events;
          const plain = (state: RunState) => {
            const { sequence: _, updatedAt: _at, message: _m, ...row } = toRow(state);
            return row;
          };
          // A signal before the first piece was stored is one of the run that failed.
          expect(new Set(types([events(log) ?? []])[0]?.split(", "))).toEqual(
            new Set(types([events(wanted) ?? []])[0]?.split(", ")),
          );
          expect(fold(log).copying).toBe(false);
          expect(plain(fold(log)).steps.map(({ name: n, status }) => [n, status])).toEqual(
            plain(fold(wanted)).steps.map(({ name: n, status }) => [n, status]),
          );
        },
      ),
    );
  });
});

describe("fork", () => {
  const source = history(
    [
      {
        ...started,
        data: { ...started.data, parent: { id: "p", child: "r", onClose: "cancel" } },
      },
    ],
    [done("a")],
    [signal("go"), done("b")],
    [done("c"), ended],
  );
  const from = { id: "r", type: "order", history: source };

  test("a new run with the same beginning, without a parent, with the seed of the first one", () => {
    const got = planFork(from, { id: "f", history: [] }, { step: "c", reason: "what if", version: "9" });
    expect(types(got.commits)).toEqual([
      "WorkflowStarted, WorkflowForked, StepCompleted a, SignalReceived go, StepCompleted b",
    ]);
    expect(got.commits[0]?.[0]).toMatchObject({ data: { version: "9", input: { n: 1 } } });
    expect(got.commits[0]?.[0]?.data).not.toHaveProperty("parent");
    expect(got.commits[0]?.[1]?.data).toEqual({ from: "r", step: "c", seed: "C1", reason: "what if" });
    expect(got.parent).toBeNull();
    expect(runNumbers(after([], got.commits))[0]).toMatchObject({ seed: "C1", copying: false });
  });

  test("repeated it is the same run; broken off it is finished; another run under the id is refused", () => {
    const { commits } = planFork(from, { id: "f", history: [] }, { step: "c" }, 2);
    expect(commits.length).toBeGreaterThan(2);
    for (let n = 1; n < commits.length; n++) {
      const broken = after([], commits.slice(0, n));
      const rest = planFork(from, { id: "f", history: broken }, { step: "c" }, 2);
      const mended = after(broken, rest.commits);
      expect(fold(mended)).toMatchObject({ copying: false, run: 1 });
      expect([...fold(mended).steps.keys()]).toEqual(["a", "b"]);
      expect(planFork(from, { id: "f", history: mended }, { step: "c" }, 2).commits).toEqual([]);
    }
    const other = after([], [[started]]);
    for (const [target, name] of [
      [other, "c"],
      [after([], commits), "b"],
    ] as const) {
      expect(() => planFork(from, { id: "f", history: target }, { step: name })).toThrow(
        expect.objectContaining({ code: "workflow_exists" }),
      );
    }
  });

  test("with an open child: refused", () => {
    const child: WorkflowEvent = {
      type: "ChildWorkflowStarted",
      data: { child: "k", type: "x", onClose: "cancel" },
    };
    const parent = { ...from, history: history([started], [done("a"), child], [done("b")]) };
    expect(() => planFork(parent, { id: "f", history: [] }, { step: "b" })).toThrow(
      expect.objectContaining({ code: "reset_unsafe" }),
    );
    expect(planFork(parent, { id: "f", history: [] }, { step: "a" }).commits).toHaveLength(1);
  });
});
