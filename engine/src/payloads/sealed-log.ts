/**
 * The event log as the engine uses it: payloads are sealed on their way in and opened on their way out.
 *
 * Owns: nothing. What `follow` delivers is as it stands in the log, since a tail sees the commits of all runs and must
 * not wait: whoever needs its payloads calls `Payloads.openCommit`.
 */
import type {
  AppendRequest,
  AppendResult,
  BlobStore,
  Checkpoint,
  CheckpointVerdict,
  EventLog,
  Follower,
  FollowOptions,
  LeaseStore,
  LogInfo,
  LogPage,
  LogStatus,
  PageOptions,
  RegisteredType,
  StoredCommit,
  TaskQueues,
} from "@millrace/event-log";
import { Payloads, type PayloadOptions } from "./payloads.ts";
import { SealedTaskQueues } from "./sealed-task-queues.ts";

/** A log that is sealed already is sealed anew with these options, not twice. */
export function sealLog(log: EventLog, options: PayloadOptions = {}): SealedLog {
  const stored = storedLog(log);
  return new SealedLog(stored, new Payloads(stored.blobs, options));
}

/**
 * The log with payloads as they stand in it: for whoever looks at anything but payloads. Opening those of a long
 * history for a cancel or a signal would decrypt all of it and fetch every blob.
 */
export function storedLog(log: EventLog): EventLog {
  return log instanceof SealedLog ? log.stored : log;
}

export class SealedLog implements EventLog {
  readonly payloads: Payloads;
  /** The same log with payloads as they stand in it. */
  readonly stored: EventLog;
  readonly tasks: TaskQueues;

  constructor(log: EventLog, payloads: Payloads) {
    this.stored = log;
    this.payloads = payloads;
    this.tasks = new SealedTaskQueues(log, payloads);
  }

  get namespace(): string {
    return this.stored.namespace;
  }

  get blobs(): BlobStore {
    return this.stored.blobs;
  }

  /** As the log's, and with `payload_too_large` for one payload, or what the codec rejects with. */
  append(request: AppendRequest): Promise<AppendResult> {
    const { workflowId, events } = request;
    const sealed = this.payloads.seal(workflowId, events);
    if (sealed === events) return this.stored.append(request);
    if (sealed instanceof Promise)
      return sealed.then((each) => this.stored.append({ ...request, events: each }));
    return this.stored.append({ ...request, events: sealed });
  }

  async load(workflowId: string, options: { readonly after?: number } = {}): Promise<StoredCommit[]> {
    return this.payloads.openCommits(await this.stored.load(workflowId, options));
  }

  async last(workflowId: string): Promise<StoredCommit | null> {
    const commit = await this.stored.last(workflowId);
    return commit === null ? null : await this.payloads.openCommit(commit);
  }

  async read(sequence: number): Promise<StoredCommit | null> {
    const commit = await this.stored.read(sequence);
    return commit === null ? null : await this.payloads.openCommit(commit);
  }

  async page(options: PageOptions): Promise<LogPage> {
    const { commits, upTo } = await this.stored.page(options);
    return { commits: await this.payloads.openCommits([...commits]), upTo };
  }

  heads(...of: Parameters<EventLog["heads"]>): Promise<number> {
    return this.stored.heads(...of);
  }

  follow(options: FollowOptions): Promise<Follower> {
    return this.stored.follow(options);
  }

  info(): Promise<LogInfo> {
    return this.stored.info();
  }

  verify(checkpoint: Checkpoint): Promise<CheckpointVerdict> {
    return this.stored.verify(checkpoint);
  }

  registerTypes(types: readonly RegisteredType[]): Promise<void> {
    return this.stored.registerTypes(types);
  }

  registeredType(type: string): RegisteredType | null {
    return this.stored.registeredType(type);
  }

  leases(): Promise<LeaseStore> {
    return this.stored.leases();
  }

  announce(topic: string, value: number): void {
    this.stored.announce(topic, value);
  }

  onAnnounce(topic: string, listener: (value: number) => void): () => void {
    return this.stored.onAnnounce(topic, listener);
  }

  ask(topic: string, question: string, options: { readonly timeoutMs: number }): Promise<string> {
    return this.stored.ask(topic, question, options);
  }

  answer(topic: string, handler: (question: string) => Promise<string | null>): () => void {
    return this.stored.answer(topic, handler);
  }

  status(): LogStatus {
    return this.stored.status();
  }

  onStatus(listener: (status: LogStatus) => void): () => void {
    return this.stored.onStatus(listener);
  }

  close(): Promise<void> {
    return this.stored.close();
  }
}
