/**
 * Delivery of one follower of the memory twin.
 *
 * Owns: the follower's position. Does not own: the commits.
 *
 * I1 Driven by position, not by a queue: each turn reads on from where the follower is.
 * I2 After a reconnect nothing is delivered before the last delivered commit was found again in the log.
 * I3 After `stop` or a final status there is no further call.
 */
import { MillraceError } from "@millrace/schemas";
import type { Follower, FollowOptions, FollowStatus } from "../event-log.ts";
import { LogCommit } from "../log-commit.ts";
import type { MemoryServer } from "./memory-server.ts";

export interface MemoryFollower extends Follower {
  connectionChanged(): void;
}

/** Commits delivered before other work gets its turn. */
const commitsPerTurn = 500;

export function followMemory(
  server: MemoryServer,
  namespace: string,
  options: FollowOptions,
  onEnd: () => void,
): MemoryFollower {
  const { created, entries, stored } = server.stream(namespace);
  if (!Number.isSafeInteger(options.after) || options.after < 0) {
    throw new MillraceError("invalid_request", `Cannot follow after ${options.after}: not a sequence.`);
  }
  if (options.after > entries.length) {
    throw new MillraceError(
      "cursor_future",
      `Cannot follow after ${options.after}: the log of namespace ${namespace} ends at ${entries.length}. ` +
        "Use a position of this log.",
      { details: { after: options.after, last: entries.length } },
    );
  }
  const types = options.types === undefined ? null : new Set(options.types);
  let position = options.after;
  let seenCommitId = entries[position - 1]?.head.commitId ?? null;
  let shown: FollowStatus | null = null;
  let ended = false;
  let scheduled = false;

  function end(): void {
    if (ended) return;
    ended = true;
    stored.delete(schedule);
    onEnd();
  }
  function show(status: FollowStatus, error?: Error): void {
    if (shown === status) return;
    shown = status;
    options.onStatus?.(status, error);
  }
  function schedule(): void {
    if (scheduled || ended) return;
    scheduled = true;
    setImmediate(turn);
  }
  function turn(): void {
    scheduled = false;
    if (ended) return;
    if (!server.connected) return show("interrupted");
    const stream = server.stream(namespace);
    const recreated = stream.created !== created;
    const here = stream.entries[position - 1]?.head.commitId ?? null;
    if (recreated || (position > 0 && here !== seenCommitId)) {
      end();
      const verdict = recreated ? "recreated" : "diverged";
      const found = recreated ? "was created anew" : `has another commit at ${position}`;
      const code = recreated ? "log_recreated" : "checkpoint_mismatch";
      return show(
        verdict,
        new MillraceError(code, `The log of namespace ${namespace} ${found}. Rebuild from the log.`),
      );
    }
    show("live");
    const ready = stream.entries.slice(position);
    const matching = types === null ? ready : ready.filter((entry) => types.has(entry.head.type));
    for (const [index, { head, body }] of matching.slice(0, commitsPerTurn).entries()) {
      position = head.sequence;
      seenCommitId = head.commitId;
      try {
        const commit = new LogCommit(head, options.headersOnly === true ? null : body);
        options.onCommit(commit, matching.length - index - 1);
      } catch (error) {
        end();
        return show("failed", error instanceof Error ? error : new Error(String(error)));
      }
      // onCommit may have stopped us, or have cut the connection.
      if (ended) return;
      if (!server.connected) break;
    }
    if (matching.length > commitsPerTurn) schedule();
  }

  stored.add(schedule);
  schedule();
  return {
    get position() {
      return position;
    },
    async stop() {
      end();
    },
    connectionChanged: schedule,
  };
}
