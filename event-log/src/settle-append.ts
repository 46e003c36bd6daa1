/**
 * Carries one append to a settled answer: the same rules for every adapter.
 *
 * Owns: re-sending, looking for our own commit after a lost answer, telling a conflict from a lost answer.
 * Does not own: how a commit is sent or read (the {@link AppendTransport}), time (the {@link AppendPolicy}).
 *
 * I1 Every send carries an expectation, so two copies of one commit can never both be stored. A fact from outside
 *    (`"any"`) is sent with the sequence of the run's last commit and moves on by itself when the run moved.
 * I2 `conflict` is answered only after the commits between the expected and the last one were searched for ours.
 * I3 After a lost answer nothing is claimed that the log's leader did not say.
 * I4 It ends: within the budget, with `append_in_doubt` when a send may have been stored, else with the last failure.
 *
 * Tested by the conformance suite with faults, for both adapters.
 */
import { decodeTime } from "ulid";
import { isMillraceError, MillraceError } from "@millrace/schemas";
import type { AppendRequest, AppendResult, CommitHead } from "./event-log.ts";

/** The run's subject must stand at `sequence`; `anyType`: no run of this id under any type (sequence 0). */
export interface Expectation {
  readonly sequence: number;
  readonly anyType: boolean;
}

/**
 * `refused`: the log says that the expectation does not hold. `busy`: it cannot tell now, nothing was stored.
 * `unanswered`: the commit may or may not be stored. `unsent`: it certainly left no trace.
 */
export type SendOutcome =
  | { readonly kind: "stored"; readonly sequence: number }
  | { readonly kind: "refused" | "busy" | "unanswered" | "unsent"; readonly error: Error };

export interface AppendTransport {
  /** Sends once. Rejects only for what no repetition mends (a limit, a full log, a closed connection). */
  send(request: AppendRequest, expectation: Expectation): Promise<SendOutcome>;
  /** The last commit of the run (`anyType`: of the id), read from the leader. */
  lastHead(request: AppendRequest, anyType: boolean): Promise<CommitHead | null>;
  /** Sequence of `commitId` among the run's commits in `(after, until]`; null when it is not there. */
  find(request: AppendRequest, after: number, until: number): Promise<number | null>;
}

export interface AppendPolicy {
  /** Time for all attempts together. */
  readonly budgetMs: number;
  readonly now: () => number;
  /** A number in [0, 1): jitter. */
  readonly random: () => number;
  /** May end early when trying again makes sense; rejects when the log was closed. */
  readonly wait: (ms: number) => Promise<void>;
}

const backoffFirstMs = 10;
const backoffMaxMs = 1_000;

/** How far a writer's clock (in the commit id) and the broker's may be apart before a re-sent fact is missed. */
const clockSkewMs = 600_000;

export async function settleAppend(
  transport: AppendTransport,
  policy: AppendPolicy,
  request: AppendRequest,
): Promise<AppendResult> {
  const { workflowId, commitId } = request;
  const anyType = request.expected === "new";
  const deadline = policy.now() + policy.budgetMs;
  let inDoubt = false;
  let attempt = 0;

  const giveUp = (cause: Error): MillraceError => {
    if (!inDoubt && isMillraceError(cause)) return cause;
    if (!inDoubt)
      return new MillraceError("unavailable", `Append to ${workflowId} failed: ${cause.message}`, { cause });
    return new MillraceError(
      "append_in_doubt",
      `Append of commit ${commitId} to ${workflowId} was not answered within ${policy.budgetMs} ms; it may or may not be ` +
        "stored. Append the same commit again.",
      { cause, details: { commitId, budgetMs: policy.budgetMs } },
    );
  };
  const backOff = async (cause: Error): Promise<void> => {
    const ceilingMs = Math.min(backoffMaxMs, backoffFirstMs * 2 ** attempt);
    const waitMs = ceilingMs * (0.5 + policy.random() / 2);
    attempt++;
    if (policy.now() + waitMs > deadline) throw giveUp(cause);
    try {
      await policy.wait(waitMs);
    } catch (error) {
      throw giveUp(error instanceof Error ? error : cause);
    }
  };
  const fromLeader = async <T>(read: () => Promise<T>): Promise<T> => {
    for (;;) {
      try {
        return await read();
      } catch (error) {
        if (!isMillraceError(error)) throw error;
        if (!error.retryable) throw giveUp(error);
        await backOff(error);
      }
    }
  };

  let expectedSequence = 0;
  if (request.expected === "any") {
    const last = await fromLeader(() => transport.lastHead(request, false));
    if (last === null) {
      throw new MillraceError(
        "workflow_not_found",
        `Append to ${workflowId} refused: there is no run with this id and type ${request.type}. Start it first.`,
      );
    }
    if (last.commitId === commitId) return { sequence: last.sequence, recovered: true };
    // The caller may be sending a commit of an earlier, unanswered append again. When the run's last commit is
    // older than the id, ours cannot be below it.
    if (last.at > decodeTime(commitId) - clockSkewMs) {
      const found = await fromLeader(() => transport.find(request, 0, last.sequence));
      if (found !== null) return { sequence: found, recovered: true };
    }
    expectedSequence = last.sequence;
  } else if (request.expected !== "new") {
    expectedSequence = request.expected;
  }

  for (;;) {
    const outcome = await transport.send(request, { sequence: expectedSequence, anyType });
    if (outcome.kind === "stored") return { sequence: outcome.sequence, recovered: false };
    if (outcome.kind === "unanswered") inDoubt = true;
    if (outcome.kind === "unsent" || outcome.kind === "busy") {
      await backOff(outcome.error);
      if (!inDoubt) continue;
    }

    const last = await fromLeader(() => transport.lastHead(request, anyType));
    if (last?.commitId === commitId) return { sequence: last.sequence, recovered: true };
    const actual = last?.sequence ?? 0;
    if (actual === expectedSequence) {
      await backOff(outcome.error);
      continue;
    }
    if (actual > expectedSequence) {
      const found = await fromLeader(() => transport.find(request, expectedSequence, actual));
      if (found !== null) return { sequence: found, recovered: true };
    }
    // The run moved past the expectation: no copy of ours that is still under way can be stored any more.
    inDoubt = false;
    if (request.expected === "any" && actual > expectedSequence) {
      expectedSequence = actual;
      if (policy.now() > deadline) throw giveUp(outcome.error);
      continue;
    }
    throw new MillraceError(
      "conflict",
      `Append to ${workflowId} refused: expected ${anyType ? "no run with this id" : `sequence ${expectedSequence}`}, ` +
        `log has ${actual}. Load the run and decide again.`,
      { cause: outcome.error, details: { expected: request.expected, actual } },
    );
  }
}
