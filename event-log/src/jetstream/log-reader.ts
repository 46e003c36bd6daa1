/**
 * Reads commits by request and answer.
 *
 * Owns: leader reads, batch reads and their inbox. Does not own: delivery of the tail (`follower.ts`).
 *
 * I1 What a decision rests on is read from the leader: a replica's direct answer was stale in 14 of 2,000 reads.
 * I2 A batch read is only a fast way: the leader's last commit says where a history ends, and what a batch did not
 *    bring is fetched from the leader one by one.
 *
 * Why not the library's `getBatch`: it throws on an empty result, keeps its subscription for 5 s and times out when
 * the caller is slow.
 */
import type { JetStreamManager, MsgRequest, NextMsgRequest, StoredMsg } from "@nats-io/jetstream";
import { createInbox, type Msg, type NatsConnection, type Subscription } from "nats";
import { anyTypeSubject, MillraceError, runSubject } from "@millrace/schemas";
import type { LogPage, PageOptions, StoredCommit } from "../event-log.ts";
import { LogCommit } from "../log-commit.ts";
import { toMillraceError } from "./broker-errors.ts";
import { headOf } from "./commit-message.ts";
import type { LogStream } from "./open-stream.ts";

interface Batch {
  readonly commits: StoredCommit[];
  readonly resolve: (commits: StoredCommit[]) => void;
  readonly reject: (error: Error) => void;
  timer: NodeJS.Timeout;
}

/** Commits of one batch request; the broker also ends a batch by bytes. */
const batchCommits = 1_000;
/** Subjects of one page that are read beside each other. */
const subjectsAtOnce = 8;

export class LogReader {
  readonly #connection: NatsConnection;
  readonly #manager: JetStreamManager;
  readonly #namespace: string;
  readonly #stream: LogStream;
  readonly #timeoutMs: number;
  readonly #inbox: string;
  readonly #subscription: Subscription;
  readonly #batches = new Map<string, Batch>();
  #nextToken = 0;

  constructor(
    connection: NatsConnection,
    manager: JetStreamManager,
    namespace: string,
    stream: LogStream,
    timeoutMs: number,
  ) {
    this.#connection = connection;
    this.#manager = manager;
    this.#namespace = namespace;
    this.#stream = stream;
    this.#timeoutMs = timeoutMs;
    this.#inbox = `${createInbox()}.`;
    this.#subscription = connection.subscribe(`${this.#inbox}*`, {
      callback: (error, message) => {
        if (error === null) this.#received(message);
        else this.fail(error);
      },
    });
  }

  /** The commit at a sequence, from the leader. */
  async read(sequence: number): Promise<StoredCommit | null> {
    if (sequence < 1) return null;
    return await this.#fromLeader({ seq: sequence }, `Reading sequence ${sequence}`);
  }

  /** The last commit of an id, from the leader; with `type` only of the run of that type. */
  async last(workflowId: string, type?: string): Promise<StoredCommit | null> {
    const { shardCount } = this.#stream;
    const subject =
      type === undefined
        ? anyTypeSubject(this.#namespace, shardCount, workflowId)
        : runSubject(this.#namespace, shardCount, type, workflowId);
    return await this.#fromLeader({ last_by_subj: subject }, `Reading the last commit of ${workflowId}`);
  }

  /** A run's commits in `(after, last.sequence]`, `last` being what the leader said. */
  async history(last: StoredCommit, after: number): Promise<StoredCommit[]> {
    if (last.sequence <= after) return [];
    const subject = runSubject(this.#namespace, this.#stream.shardCount, last.type, last.workflowId);
    const attempt = `Loading ${last.workflowId}`;
    const commits: StoredCommit[] = [];
    let from = after + 1;
    while (from < last.sequence) {
      const batch = await this.#batch(subject, from, attempt);
      for (const commit of batch) {
        if (commit.sequence >= from && commit.sequence < last.sequence) commits.push(commit);
      }
      const reached = batch.at(-1)?.sequence ?? 0;
      // An empty or short answer may be a stale replica's: ask the leader.
      if (reached < from) break;
      from = reached + 1;
    }
    while (from < last.sequence) {
      const commit = await this.#fromLeader({ seq: from, next_by_subj: subject }, attempt);
      if (commit === null || commit.sequence >= last.sequence) break;
      commits.push(commit);
      from = commit.sequence + 1;
    }
    commits.push(last);
    return commits;
  }

  /** Commits of some subjects in a range, in order. */
  async page(subjects: readonly string[], options: PageOptions): Promise<LogPage> {
    const { after, upTo } = options;
    const commits: StoredCommit[] = [];
    let end = upTo;
    // A few at a time: each answer may be a whole page.
    for (let n = 0; n < subjects.length; n += subjectsAtOnce) {
      const read = await Promise.all(
        subjects.slice(n, n + subjectsAtOnce).map((subject) => this.#stretch(subject, options)),
      );
      for (const one of read) {
        commits.push(...one.commits);
        end = Math.min(end, one.upTo);
      }
    }
    if (subjects.length > 1) commits.sort((a, b) => a.sequence - b.sequence);
    const reached = commits.filter(({ sequence }) => sequence <= end);
    if (reached.length <= options.commitsMax) return { commits: reached, upTo: Math.max(end, after) };
    const page = reached.slice(0, options.commitsMax);
    return { commits: page, upTo: page.at(-1)?.sequence ?? after };
  }

  /** One subject's part of a page. */
  async #stretch(subject: string, { after, upTo, commitsMax, bytesMax }: PageOptions): Promise<LogPage> {
    if (after >= upTo) return { commits: [], upTo };
    const attempt = `Reading ${subject} from sequence ${after + 1}`;
    const batch = await this.#batch(subject, after + 1, attempt, commitsMax, bytesMax);
    let commits = batch.filter(({ sequence }) => sequence > after && sequence <= upTo);
    if (batch.length === 0) {
      // The end, or a replica that is behind: the leader knows.
      const next = await this.#fromLeader({ seq: after + 1, next_by_subj: subject }, attempt);
      if (next === null || next.sequence > upTo) return { commits: [], upTo };
      commits = [next];
    }
    const last = batch.at(-1)?.sequence ?? 0;
    // What lies beyond was seen, so nothing is missing before it; else the next page says whether that was all.
    return { commits, upTo: last >= upTo ? upTo : (commits.at(-1)?.sequence ?? upTo) };
  }

  /** Ends every batch under way: the connection is lost or closed. */
  fail(error: Error): void {
    const batches = [...this.#batches.values()];
    this.#batches.clear();
    for (const batch of batches) {
      clearTimeout(batch.timer);
      batch.reject(error);
    }
  }

  close(error: Error): void {
    this.fail(error);
    this.#subscription.unsubscribe();
  }

  async #fromLeader(query: MsgRequest | NextMsgRequest, attempt: string): Promise<StoredCommit | null> {
    let stored: StoredMsg | null;
    try {
      // The leader takes `next_by_subj` as direct reads do; only the library's type does not say so.
      stored = await this.#manager.streams.getMessage(this.#stream.name, query as MsgRequest);
    } catch (error) {
      throw toMillraceError(error, attempt);
    }
    if (stored === null) return null;
    return new LogCommit(
      headOf(stored.subject, stored.seq, stored.time.getTime(), stored.header),
      stored.data,
    );
  }

  async #batch(
    subject: string,
    from: number,
    attempt: string,
    commitsMax = batchCommits,
    bytesMax?: number,
  ): Promise<StoredCommit[]> {
    const token = (this.#nextToken++).toString(36);
    try {
      return await new Promise<StoredCommit[]>((resolve, reject) => {
        const expire = () => {
          this.#batches.delete(token);
          reject(new MillraceError("timeout", `the broker did not answer within ${this.#timeoutMs} ms`));
        };
        this.#batches.set(token, {
          commits: [],
          resolve,
          reject,
          timer: setTimeout(expire, this.#timeoutMs),
        });
        this.#connection.publish(
          `$JS.API.DIRECT.GET.${this.#stream.name}`,
          JSON.stringify({ seq: from, next_by_subj: subject, batch: commitsMax, max_bytes: bytesMax }),
          { reply: this.#inbox + token },
        );
      });
    } catch (error) {
      throw toMillraceError(error, attempt);
    }
  }

  #received(message: Msg): void {
    const token = message.subject.slice(this.#inbox.length);
    const batch = this.#batches.get(token);
    if (batch === undefined) return;
    const { headers } = message;
    const status = headers?.code ?? 0;
    if (status === 0) {
      try {
        const head = headOf(
          headers?.get("Nats-Subject") ?? "",
          Number(headers?.get("Nats-Sequence")),
          Date.parse(headers?.get("Nats-Time-Stamp") ?? ""),
          headers,
        );
        batch.commits.push(new LogCommit(head, message.data));
        batch.timer.refresh();
      } catch (error) {
        this.#end(token, batch);
        batch.reject(error instanceof Error ? error : new Error(String(error)));
      }
      return;
    }
    this.#end(token, batch);
    // 204: end of the batch. 404: nothing matches. Anything else is no answer, and the leader is asked instead.
    batch.resolve(status === 204 ? batch.commits : []);
  }

  #end(token: string, batch: Batch): void {
    this.#batches.delete(token);
    clearTimeout(batch.timer);
  }
}
