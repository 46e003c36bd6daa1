/**
 * Commands on schedules: load, decide, append, and on a conflict decide again.
 *
 * Owns: how many schedules there are, as far as this process knows. Does not own: what is allowed
 * (`core/decide-schedule.ts`), firing (`scheduler.ts`).
 */
import { createHash } from "node:crypto";
import type { EventLog } from "@millrace/event-log";
import {
  assertScheduleId,
  isMillraceError,
  isoTime,
  limits,
  MillraceError,
  scheduleType,
  toScheduleRow,
  type ScheduledRun,
  type ScheduleRow,
  type ScheduleSpec,
  type ScheduleState,
} from "@millrace/schemas";
import { sameJson } from "../core/decide.ts";
import type { WorkflowDefinition } from "../definition.ts";
import type { Clock } from "../due-timers.ts";
import { newUlid } from "../new-ulid.ts";
import { assertOpenedPayload } from "../payloads/payloads.ts";
import {
  decideBackfill,
  decideCreate,
  decideDelete,
  decidePause,
  decideResume,
  decideTrigger,
  decideUpdate,
  ticksBetween,
  type Operator,
  type ScheduleEvent,
} from "./core/decide-schedule.ts";
import { parseSchedule, parseTime } from "./core/parse-schedule.ts";
import { loadSchedule, runPresence } from "./load-schedule.ts";
import type { ScheduleCreateOptions, ScheduleOptions, Schedules } from "./schedules.ts";

const conflictsMax = 16;
const listLimitDefault = 50;

export interface ScheduleCommandsDeps {
  readonly log: EventLog;
  readonly clock: Clock;
  /** The input as it is stored; rejects when the type is unknown or the input does not fit. */
  readonly checkStart: (
    type: string,
    definition: WorkflowDefinition<never> | null,
    input: unknown,
    allowUnregistered: boolean,
  ) => Promise<unknown>;
  /** False when the run was there already. */
  readonly start: (schedule: ScheduleState, run: ScheduledRun) => Promise<boolean>;
}

interface Executed {
  /** As it was decided on. */
  readonly state: ScheduleState;
  readonly sequence: number;
}

export function createScheduleCommands(deps: ScheduleCommandsDeps): Schedules {
  const { log, clock, start, checkStart } = deps;
  /** Null: not counted yet. */
  let count: number | null = null;

  async function find(id: string): Promise<ScheduleState> {
    assertScheduleId(id);
    const found = await loadSchedule(log, id);
    if (found.kind === "schedule" && found.state.status !== "deleted") return found.state;
    throw new MillraceError(
      "schedule_not_found",
      found.kind === "run"
        ? `There is no schedule ${id}: the id is that of a run of type ${found.type}. Check the id.`
        : `There is no schedule ${id}${found.kind === "schedule" ? " any more: it was deleted" : ""}. Create it, or check its id.`,
      { details: { id } },
    );
  }

  async function append(id: string, expected: number | "new", event: ScheduleEvent): Promise<number> {
    const { nextDueAt } = event.data.memo;
    const { sequence } = await log.append({
      commitId: newUlid(),
      workflowId: id,
      type: scheduleType,
      expected,
      events: [event],
      condition: event.type === "ScheduleDeleted" ? "closed" : "waiting",
      ...(nextDueAt === null ? {} : { dueAt: nextDueAt }),
    });
    return sequence;
  }

  async function execute(
    id: string,
    decide: (state: ScheduleState, now: number) => ScheduleEvent | null | Promise<ScheduleEvent | null>,
  ): Promise<Executed> {
    for (let tries = 1; ; tries++) {
      const state = await find(id);
      const event = await decide(state, clock.now());
      if (event === null) return { state, sequence: state.sequence };
      try {
        return { state, sequence: await append(id, state.sequence, event) };
      } catch (error) {
        if (!isMillraceError(error, "conflict") || tries >= conflictsMax) throw error;
      }
    }
  }

  async function parse<Input>(
    id: string,
    schedule: ScheduleOptions<Input>,
    options: ScheduleCreateOptions,
  ): Promise<ScheduleSpec> {
    assertScheduleId(id);
    const { type } = schedule.workflow;
    const definition = typeof type === "string" ? null : type;
    const named = { ...schedule.workflow, type: definition?.type ?? type };
    const spec = parseSchedule(id, { ...schedule, workflow: named });
    const input = await checkStart(
      spec.workflow.type,
      definition as WorkflowDefinition<never> | null,
      spec.workflow.input,
      options.allowUnregistered === true || definition !== null,
    );
    return { ...spec, workflow: { ...spec.workflow, input } };
  }

  /** A guard against a program that makes schedules without end, not an exact count: others create them too. */
  async function assertRoom(id: string): Promise<void> {
    if (count === null || count >= limits.schedules) {
      let counted = 0;
      await log.heads(({ condition }) => void (condition === "closed" || counted++), {
        types: [scheduleType],
      });
      count = counted;
    }
    if (count < limits.schedules) return;
    throw new MillraceError(
      "limit_exceeded",
      `Schedule ${id} refused: the namespace has ${count} schedules, the limit is ${limits.schedules}. Delete some, ` +
        "or start many runs from one schedule.",
      { details: { limit: limits.schedules, actual: count } },
    );
  }

  return {
    async create(id, schedule, options = {}) {
      const spec = await parse(id, schedule, options);
      for (let tries = 1; ; tries++) {
        const found = await loadSchedule(log, id);
        if (found.kind === "run") throw taken(id, `a run of type ${found.type}`);
        if (found.kind === "schedule" && found.state.status !== "deleted") {
          // Not knowing what its input is is no reason to call it another one.
          assertOpenedPayload(found.state.spec.workflow.input);
          if (!sameJson(found.state.spec, spec)) throw taken(id, "another schedule");
          return { created: false, sequence: found.state.sequence };
        }
        await assertRoom(id);
        try {
          const before = found.kind === "schedule" ? found.state : null;
          const event = decideCreate(id, spec, operatorOf(options), clock.now(), before?.commits);
          const expected = before?.sequence ?? "new";
          const sequence = await append(id, expected, event);
          if (count !== null) count++;
          return { created: true, sequence };
        } catch (error) {
          if (!isMillraceError(error, "conflict") || tries >= conflictsMax) throw error;
        }
      }
    },

    async update(id, schedule, options = {}) {
      const spec = await parse(id, schedule, options);
      const { sequence } = await execute(id, (state, now) =>
        decideUpdate(state, spec, operatorOf(options), now),
      );
      return { sequence };
    },

    async pause(id, reason = {}) {
      const { sequence } = await execute(id, (state, now) => decidePause(state, operatorOf(reason), now));
      return { sequence };
    },

    async resume(id, reason = {}) {
      const { sequence } = await execute(id, (state, now) => decideResume(state, operatorOf(reason), now));
      return { sequence };
    },

    async trigger(id, { key, by } = {}) {
      assertScheduleId(id);
      const runId = `${id}-manual-${key === undefined ? newUlid() : hashOf(key)}`;
      let run: ScheduledRun | null = null;
      let started = true;
      const { state, sequence } = await execute(id, async (current, now) => {
        run = null;
        started = !current.waiting.some((other) => other.id === runId);
        if (!started || (await runPresence(log, runId)) !== "absent") return null;
        const undone = current.open.find((other) => other.id === runId);
        if (undone !== undefined) {
          // Decided by a process that did not come to the start.
          run = undone;
          return null;
        }
        if (current.waiting.length >= limits.scheduleWaitingRuns) throw tooManyWait(id);
        const open = new Set<string>();
        for (const other of current.open)
          if ((await runPresence(log, other.id)) !== "closed") open.add(other.id);
        const data = decideTrigger(current, runId, by, now, (other) => open.has(other));
        run = data.runs.find((other) => other.id === runId) ?? null;
        started = run !== null;
        return { type: "ScheduleTriggered", data };
      });
      if (run !== null) await start(state, run);
      return { sequence, workflowId: runId, started };
    },

    async backfill(id, { from, to, by }) {
      assertScheduleId(id);
      const first = parseTime(id, "from", from);
      const last = parseTime(id, "to", to);
      let ticks = 0;
      const { sequence } = await execute(id, (state, now) => {
        assertSpan(id, first, last, now);
        ticks = ticksBetween(state.spec, first, last).length;
        if (ticks > limits.scheduleBackfillTicks) throw tooManyTicks(id, ticks);
        if (ticks === 0) return null;
        const event = decideBackfill(state, first, last, by);
        if (event !== null && state.backfills.length >= limits.scheduleBackfills) throw tooManyWait(id);
        return event;
      });
      return { sequence, ticks };
    },

    async delete(id, reason = {}) {
      const { sequence } = await execute(id, (state) => decideDelete(state, operatorOf(reason)));
      if (count !== null) count--;
      return { sequence };
    },

    async get(id) {
      return toScheduleRow(await find(id));
    },

    async list({ after = "", limit = listLimitDefault } = {}) {
      if (!Number.isSafeInteger(limit) || limit < 1 || limit > limits.pageItems) {
        throw new MillraceError(
          "limit_exceeded",
          `A page holds 1 to ${limits.pageItems} schedules, not ${limit}. Ask for fewer.`,
          { details: { limit: limits.pageItems, actual: limit } },
        );
      }
      const ids: string[] = [];
      await log.heads(
        ({ condition, workflowId }) =>
          void (condition === "closed" || workflowId <= after || ids.push(workflowId)),
        { types: [scheduleType] },
      );
      ids.sort();
      const items: ScheduleRow[] = [];
      for (const id of ids.slice(0, limit)) {
        const found = await loadSchedule(log, id);
        if (found.kind === "schedule" && found.state.status !== "deleted")
          items.push(toScheduleRow(found.state));
      }
      return { items, next: ids.length > limit ? (ids[limit - 1] ?? null) : null };
    },
  };
}

function operatorOf({ reason, by }: Operator): Operator {
  return { ...(reason === undefined ? {} : { reason }), ...(by === undefined ? {} : { by }) };
}

function hashOf(key: string): string {
  return createHash("sha256").update(key).digest("hex").slice(0, 32);
}

function assertSpan(id: string, from: number, to: number, now: number): void {
  const why =
    to < from ? "to is before from" : to > now ? `to is in the future (it is ${isoTime(now)})` : null;
  if (why === null) return;
  throw new MillraceError(
    "invalid_request",
    `Backfill of schedule ${id} refused: ${why}. Give a span of the past.`,
    { details: { from, to } },
  );
}

function taken(id: string, by: string): MillraceError {
  return new MillraceError(
    "schedule_exists",
    `Schedule ${id} refused: the id belongs to ${by}. Choose another id, repeat the same schedule, or update it.`,
    { details: { id } },
  );
}

function tooManyTicks(id: string, actual: number): MillraceError {
  const limit = limits.scheduleBackfillTicks;
  return new MillraceError(
    "limit_exceeded",
    `Backfill of schedule ${id} refused: the span has more than ${limit} ticks. Backfill it in parts.`,
    { details: { limit, actual } },
  );
}

function tooManyWait(id: string): MillraceError {
  return new MillraceError(
    "limit_exceeded",
    `Schedule ${id} refused: as many runs or backfills wait as it may have (${limits.scheduleWaitingRuns} runs, ` +
      `${limits.scheduleBackfills} backfills). Wait for them, or choose the overlap policy allow.`,
    { details: { limit: limits.scheduleWaitingRuns } },
  );
}
