import {
  isClosed,
  isoTime,
  stepKey,
  type HostedType,
  type RunState,
  type StepState,
} from "@millrace/schemas";

/** A run of code that said nothing for this long gets an explanation; below it, it simply works. */
export const quietMs = 5_000;

/**
 * In one line why an open run stands still and what to do about it; null when it is closed or on the move.
 * Computed from its history and from what live workers host (`hosted`; null: not known): what a worker is doing at
 * this moment is not in the log, so where two causes look the same, both are named.
 */
export function whyNotMoving(
  state: RunState,
  now: number,
  hosted: readonly HostedType[] | null,
): string | null {
  if (isClosed(state.status)) return null;
  if (state.status === "stuck") {
    const reason = state.error?.message ?? "a turn failed";
    return (
      `stuck because ${sentence(reason)} Nothing is lost: host code that fits its history ` +
      `(version ${state.version} of ${state.type}), or end it with: millrace cancel ${state.id}`
    );
  }
  return state.driver === "external" ? whyDriverRun(state, now) : whyCodeRun(state, now, hosted);
}

function whyDriverRun(state: RunState, now: number): string {
  const steps = [...state.steps.values()];
  const held = steps.find((step) => step.status === "started");
  if (held !== undefined) {
    const since = held.startedAt === null ? "" : ` since ${isoTime(held.startedAt)}`;
    return `waits for a driver: it began attempt ${held.attempt} of step ${label(held)}${since} and has not ended it`;
  }
  const retrying = steps.find((step) => step.status === "retrying");
  if (retrying !== undefined) {
    const due = retrying.nextAttemptAt ?? 0;
    return due > now
      ? backingOff(retrying, due)
      : `waits for a driver: step ${label(retrying)} can be begun again since ${isoTime(due)}${lastError(retrying)}`;
  }
  const next = state.plan.find((name) => !state.steps.has(name));
  return next === undefined
    ? `waits for a driver: it may begin another step, or complete or fail the run`
    : `waits for a driver to begin step ${next}`;
}

function whyCodeRun(state: RunState, now: number, hosted: readonly HostedType[] | null): string | null {
  if (hosted !== null && !isHosted(state, hosted)) return nobodyHosts(state, hosted);
  const retrying = [...state.steps.values()].filter((step) => step.status === "retrying");
  const [earliest] = retrying.toSorted((a, b) => (a.nextAttemptAt ?? 0) - (b.nextAttemptAt ?? 0));
  const due = earliest?.nextAttemptAt ?? 0;
  if (earliest !== undefined && due > now) return backingOff(earliest, due);
  const silentMs = now - Math.max(state.updatedAt, due);
  if (silentMs < quietMs) return null;
  // That a worker hosts it is all that can be known: where it does not, that was said above.
  const orUnhosted = hosted === null ? `, or no worker hosts version ${state.version} of ${state.type}` : "";
  const silent = `no news for ${Math.floor(silentMs / 1_000)} s`;
  if (state.cancelRequested !== null) {
    return `${silent} after a cancel was requested: its code does not end on ctx.signal${orUnhosted}`;
  }
  if (earliest !== undefined)
    return `step ${label(earliest)} is due since ${isoTime(due)}, ${silent}: it runs${orUnhosted}`;
  return state.sequence === state.startedSequence
    ? `nobody has recorded anything since its start, ${silent}: its first step still runs${orUnhosted}`
    : `${silent}: a step runs (it is recorded when it ends)${orUnhosted}`;
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

function backingOff(step: StepState, due: number): string {
  return `backing off until ${isoTime(due)}: step ${label(step)} failed in attempt ${step.attempt}${lastError(step)}`;
}

function lastError(step: StepState): string {
  return step.error === null ? "" : ` (${step.error.message})`;
}

function label(step: StepState): string {
  return stepKey(step.name, step.occurrence);
}

function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
