/** The public door to schedules: `millrace.schedules`. Carried out by `schedule-commands.ts`. */
import type { Attributes, OverlapPolicy, Page, ScheduleRow } from "@millrace/schemas";
import type { WorkflowDefinition } from "../definition.ts";
import type { Mutation, OperatorReason } from "../millrace.ts";

/** The run that each tick starts. */
export interface ScheduledStart<Input> {
  readonly type: string | WorkflowDefinition<Input>;
  /** Checked against the definition's schema when it is given or hosted here. */
  readonly input?: Input;
  /** Beside `schedule` (its id) and `scheduledAt` (the tick, ISO 8601), which each run has. */
  readonly attributes?: Attributes;
  /** Time limit of each run. Default: its workflow's own. */
  readonly timeoutMs?: number;
}

/** Exactly one of `cron` and `everyMs`. Times are ISO 8601 with a zone. */
export interface ScheduleOptions<Input = unknown> {
  /** Five fields (minute hour day month weekday) or six (second first). */
  readonly cron?: string;
  /** IANA name; only with `cron`. Default `UTC`. */
  readonly timeZone?: string;
  /** Interval in milliseconds, at least 1,000; counted from `startAt`, or from 1970. */
  readonly everyMs?: number;
  /** No tick before this. */
  readonly startAt?: string;
  /** No tick after this. */
  readonly endAt?: string;
  /** Each tick is late by a part of this, always the same for one tick, never beyond the next one. Default 0. */
  readonly jitterMs?: number;
  /** What a tick does while a run of the schedule is open. Default `skip`. */
  readonly overlap?: OverlapPolicy;
  /** A tick that nobody could fire for longer than this is given up. Default 3,600,000 (an hour). */
  readonly catchUpWindowMs?: number;
  readonly workflow: ScheduledStart<Input>;
  /** For people. */
  readonly note?: string;
}

export interface ScheduleCreateOptions extends OperatorReason {
  /** Accept a workflow type that nobody has registered. Default false. */
  readonly allowUnregistered?: boolean;
}

export interface ScheduleTriggered extends Mutation {
  readonly workflowId: string;
  /** False: another run is open, and this one starts when that has closed. */
  readonly started: boolean;
}

/**
 * Schedules: runs that are started by the clock. A worker that hosts the workflow type fires them; without one the next
 * tick stays due. All calls may be repeated: what is done already is answered again.
 *
 * Common errors: `schedule_not_found`, `invalid_id`, `invalid_request` (names the field), `conflict` after many tries,
 * and the log's own.
 */
export interface Schedules {
  /**
   * Creates a schedule; its first tick is the first one from now on. The same again answers `created: false`.
   * Rejects with `schedule_exists` (another schedule, or a run, has this id), `workflow_type_unknown`, `invalid_input`,
   * `limit_exceeded`.
   *
   * @example
   * await millrace.schedules.create("nightly", {
   *   cron: "0 3 * * *",
   *   timeZone: "Europe/Amsterdam",
   *   workflow: { type: report, input: { kind: "daily" } },
   * });
   */
  create<Input>(
    id: string,
    schedule: ScheduleOptions<Input>,
    options?: ScheduleCreateOptions,
  ): Promise<Mutation & { readonly created: boolean }>;
  /** Replaces the whole schedule. New ticks, if they change, begin now; what waits and what runs stays. */
  update<Input>(
    id: string,
    schedule: ScheduleOptions<Input>,
    options?: ScheduleCreateOptions,
  ): Promise<Mutation>;
  /** No tick fires until `resume`. Open runs go on. */
  pause(id: string, reason?: OperatorReason): Promise<Mutation>;
  /** Ticks of the pause are not caught up. */
  resume(id: string, reason?: OperatorReason): Promise<Mutation>;
  /**
   * Starts a run now, paused or not; while another is open (and not under `allow`) it waits for that one's end, and its
   * handle is good from then on. The same `key` again starts nothing and answers with the same run.
   * `limit_exceeded` when too many runs wait already.
   */
  trigger(id: string, options?: { readonly key?: string; readonly by?: string }): Promise<ScheduleTriggered>;
  /**
   * Starts the runs of the ticks in a span of the past, both ends included: one after the other, or all at once under
   * `allow`. A tick that has its run already gets no second one. `limit_exceeded` beyond 1,000 ticks.
   */
  backfill(
    id: string,
    span: { readonly from: string; readonly to: string; readonly by?: string },
  ): Promise<Mutation & { readonly ticks: number }>;
  /** Runs that are open go on. The id may be used again. */
  delete(id: string, reason?: OperatorReason): Promise<Mutation>;
  /** From the log itself. */
  get(id: string): Promise<ScheduleRow>;
  /** By id. Reads the log; the read model (`GET /v1/schedules`) is for pages. `limit` 1 to 1,000, default 50. */
  list(options?: { readonly after?: string; readonly limit?: number }): Promise<Page<ScheduleRow>>;
}
