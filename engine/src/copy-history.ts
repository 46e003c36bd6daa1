/**
 * Resets, retries and forks: load, plan, append piece by piece.
 *
 * Owns: nothing. What is to be appended says `core/copy-plan.ts`; that nobody runs a half-copied run, the fold.
 * O1 Every append expects the sequence before it. What comes between (a signal, another operator) is met as a conflict,
 *    and the plan made again from the log: it goes on where it was.
 * O2 A crash in the middle leaves a run that nobody executes; the same request finishes it, another one replaces it.
 */
import type { EventLog, StoredCommit } from "@millrace/event-log";
import { isMillraceError, MillraceError, scheduleType } from "@millrace/schemas";
import { planFork, planReset, type CopyPlan, type ForkRequest, type ResetRequest } from "./core/copy-plan.ts";
import { newUlid } from "./new-ulid.ts";

/** As often as a run may move on between two looks at it. */
const triesMax = 16;

export interface Copied {
  readonly sequence: number;
  /** The run number that began. */
  readonly run: number;
  /** The step that is done anew; null when it is none in particular. */
  readonly step: string | null;
}

/** `eventsMax`: of one commit; for tests. Rejects with `workflow_not_found`, what the plan says, `conflict`, or the log's errors. */
export async function resetRun(
  log: EventLog,
  id: string,
  request: ResetRequest,
  eventsMax?: number,
): Promise<Copied> {
  return untilAppended(`${request.kind} of ${id}`, async () => {
    const { type, commits, last } = await historyOf(log, id);
    return appendPlan(log, id, type, planReset(id, type, commits, request, eventsMax), last);
  });
}

export async function forkRun(
  log: EventLog,
  sourceId: string,
  id: string,
  request: ForkRequest,
  eventsMax?: number,
): Promise<Copied & { readonly created: boolean }> {
  let created = false;
  const copied = await untilAppended(`fork of ${sourceId} to ${id}`, async () => {
    const source = await historyOf(log, sourceId);
    const target = await log.load(id);
    const plan = planFork(
      { id: sourceId, type: source.type, history: source.commits },
      { id, history: target },
      request,
      eventsMax,
    );
    created ||= target.length === 0;
    return appendPlan(log, id, source.type, plan, target.at(-1)?.sequence ?? null);
  });
  return { ...copied, created };
}

async function historyOf(
  log: EventLog,
  id: string,
): Promise<{ readonly type: string; readonly commits: readonly StoredCommit[]; readonly last: number }> {
  const commits = await log.load(id);
  const [first] = commits;
  if (first === undefined || first.type === scheduleType) {
    throw new MillraceError("workflow_not_found", `There is no run ${id}. Start it, or check its id.`);
  }
  return { type: first.type, commits, last: commits.at(-1)?.sequence ?? 0 };
}

async function appendPlan(
  log: EventLog,
  id: string,
  type: string,
  { commits, run, step, driver, parent }: CopyPlan,
  last: number | null,
): Promise<Copied> {
  let sequence = last;
  for (const [n, events] of commits.entries()) {
    const whole = n === commits.length - 1;
    const appended = await log.append({
      commitId: newUlid(),
      workflowId: id,
      type,
      expected: sequence ?? "new",
      events,
      // A driver's run needs no worker, once it is whole.
      condition: whole && driver === "external" ? "waiting" : "running",
      ...(parent === null ? {} : { parent }),
    });
    ({ sequence } = appended);
  }
  return { sequence: sequence ?? 0, run, step };
}

/** O1 */
async function untilAppended<T>(what: string, attempt: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      if (!isMillraceError(error, "conflict")) throw error;
      if (tries < triesMax) continue;
      throw new MillraceError(
        "conflict",
        `The ${what} gave up after ${tries} tries: the run moved on each time. What was copied is kept: repeat the same command.`,
        { cause: error },
      );
    }
  }
}
