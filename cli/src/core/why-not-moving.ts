import {
  isFinalRow,
  stepKey,
  type HostedType,
  type StepRow,
  type WaitRow,
  type WorkflowRow,
} from "@millrace/schemas";

/** A run of code that said nothing for this long gets an explanation; below it, it simply works. */
export const quietMs = 5_000;
/** Of many things that a run waits for, so many are named. */
const waitsNamed = 3;

/** What is not in the run's own history; null: not known. */
export interface Surroundings {
  /** What live workers host. */
  readonly hosted: readonly HostedType[] | null;
  readonly queues: readonly QueueFacts[] | null;
}

export interface QueueFacts {
  readonly queue: string;
  /** Tasks that wait. */
  readonly depth: number;
  /** Tasks that are taken. */
  readonly inFlight: number;
}

/**
 * In one line why an open run stands still and what to do about it; null when it is closed or on the move.
 * Computed from its row and from what is around it: what a worker is doing at this moment is not in the log, so where
 * two causes look the same, both are named.
 */
export function whyNotMoving(row: WorkflowRow, now: number, around: Surroundings): string | null {
  if (isFinalRow(row)) return null;
  if (row.status === "stuck") {
    const reason = row.error?.message ?? "a turn failed";
    return (
      `stuck because ${sentence(reason)} Nothing is lost: host code that fits its history ` +
      `(version ${row.version} of ${row.type}), or end it with: millrace cancel ${row.id}`
    );
  }
  if (row.copying) {
    return "its history is being copied by a reset or fork; if that was broken off, repeat the command to finish it";
  }
  if (row.paused !== null) {
    const { by, reason, since } = row.paused;
    return (
      `paused${by === null ? "" : ` by ${by}`} since ${since}${reason === null ? "" : ` (${reason})`}, ` +
      `let it go on with: millrace resume ${row.id}`
    );
  }
  return row.driver === "external" ? whyDriverRun(row, now) : whyCodeRun(row, now, around);
}

function whyDriverRun(row: WorkflowRow, now: number): string {
  const held = row.waits.find(({ kind }) => kind === "driver");
  if (held !== undefined) {
    const attempt = stepOf(row, held.name)?.attempt ?? 1;
    const since = held.since === null ? "" : ` since ${held.since}`;
    return `waits for a driver: it began attempt ${attempt} of step ${held.name}${since} and has not ended it`;
  }
  const retrying = row.waits.find(({ kind }) => kind === "retry");
  if (retrying !== undefined) {
    return isAhead(retrying.due, now)
      ? backingOff(row, retrying)
      : `waits for a driver: step ${retrying.name} can be begun again since ${retrying.due}${lastError(row, retrying)}`;
  }
  const begun = new Set(row.steps.map(({ name }) => name));
  const next = row.plan.find((name) => !begun.has(name));
  return next === undefined
    ? `waits for a driver: it may begin another step, or complete or fail the run`
    : `waits for a driver to begin step ${next}`;
}

function whyCodeRun(row: WorkflowRow, now: number, { hosted, queues }: Surroundings): string | null {
  if (hosted !== null && !isHosted(row, hosted)) return nobodyHosts(row, hosted);
  // That a worker hosts it is all that can be known: where it does not, that was said above.
  const orUnhosted = hosted === null ? `, or no worker hosts version ${row.version} of ${row.type}` : "";
  const due = Math.max(
    0,
    ...row.waits.map((wait) => (wait.due === null ? 0 : Date.parse(wait.due))).filter((at) => at <= now),
  );
  const silentMs = now - Math.max(Date.parse(row.updatedAt), due);
  const silent = `no news for ${Math.floor(silentMs / 1_000)} s`;
  if (row.cancelRequested && silentMs >= quietMs) {
    return `${silent} after a cancel was requested: its code does not end on ctx.signal${orUnhosted}`;
  }
  if (row.waits.length > 0 && row.status === "waiting") {
    const named = row.waits.slice(0, waitsNamed).map((wait) => waitText(row, wait, now, queues, orUnhosted));
    const more = row.waits.length - named.length;
    return named.join("; ") + (more > 0 ? `; and for ${more} more` : "");
  }
  if (silentMs < quietMs) return null;
  return row.steps.length === 0 && row.updatedAt === row.startedAt
    ? `nobody has recorded anything since its start, ${silent}: its first step still runs${orUnhosted}`
    : `${silent}: a step runs (it is recorded when it ends)${orUnhosted}`;
}

function waitText(
  row: WorkflowRow,
  wait: WaitRow,
  now: number,
  queues: Surroundings["queues"],
  orUnhosted: string,
): string {
  const { kind, name, since, due } = wait;
  const until = due === null ? "" : ` until ${due}`;
  switch (kind) {
    case "signal":
      return `waits for signal ${name} since ${since}${until}, send it with: millrace signal ${row.id} ${name}`;
    case "condition":
      return `waits for a condition of its code since ${since}${until}`;
    case "timer":
      return isAhead(due, now)
        ? `waits for timer ${name}, due at ${due}`
        : `timer ${name} is due since ${due}: its worker is late${orUnhosted}`;
    case "child":
      return `waits for child ${name} since ${since}, look at it with: millrace show ${name}`;
    case "retry":
      return isAhead(due, now)
        ? backingOff(row, wait)
        : `step ${name} is due since ${due}${lastError(row, wait)}: it runs${orUnhosted}`;
    case "task":
      return taskText(wait, now, queues);
    case "driver":
      return `waits for step ${name} since ${since}`;
  }
}

function taskText(
  { name, since, queue, worker }: WaitRow,
  now: number,
  queues: Surroundings["queues"],
): string {
  if (worker !== null) {
    return `task ${name} of queue ${queue} runs since ${since}${worker === "" ? "" : ` at worker ${worker}`}`;
  }
  const waits = `task ${name} waits in queue ${queue} since ${since}`;
  const facts = queues?.find((each) => each.queue === queue);
  if (since === null || now - Date.parse(since) < quietMs) return waits;
  if (facts === undefined) return `${waits}: no worker on queue ${queue}, or all are busy`;
  return facts.inFlight === 0
    ? `${waits}: no worker on queue ${queue} takes tasks, ${facts.depth} wait`
    : `${waits}: ${facts.inFlight} others are being worked on, ${facts.depth} wait`;
}

function isHosted({ type, version }: HostedType, hosted: readonly HostedType[]): boolean {
  return hosted.some((one) => one.type === type && one.version === version);
}

function nobodyHosts({ type, version }: HostedType, hosted: readonly HostedType[]): string {
  const others = hosted.filter((one) => one.type === type).map((one) => one.version);
  return others.length === 0
    ? `no worker hosts type ${type} (version ${version}): start one that does`
    : `no worker hosts type ${type} (version ${version}), only ${others.join(", ")}: host that version beside the others`;
}

function backingOff(row: WorkflowRow, { name, due }: WaitRow): string {
  const attempt = stepOf(row, name)?.attempt ?? 1;
  return `backing off until ${due}: step ${name} failed in attempt ${attempt}${lastError(row, { name })}`;
}

function lastError(row: WorkflowRow, { name }: Pick<WaitRow, "name">): string {
  const error = stepOf(row, name)?.error ?? null;
  return error === null ? "" : ` (${error.message.replaceAll(/\s+/g, " ")})`;
}

function stepOf(row: WorkflowRow, key: string): StepRow | undefined {
  return row.steps.find((step) => stepKey(step.name, step.occurrence) === key);
}

function isAhead(due: string | null, now: number): boolean {
  return due !== null && Date.parse(due) > now;
}

function sentence(text: string): string {
  const line = text.replaceAll(/\s+/g, " ");
  return /[.!?]$/.test(line) ? line : `${line}.`;
}
