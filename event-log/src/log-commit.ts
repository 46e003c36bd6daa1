import { decodeCommit, MillraceError, type RunCondition, type WorkflowEvent } from "@millrace/schemas";
import type { CommitHead, StoredCommit } from "./event-log.ts";

const utf8 = new TextDecoder("utf-8", { fatal: true });

/**
 * A commit as both adapters hand it out. The body stays bytes until somebody asks: most readers of a busy log
 * look at heads only. `bytes` is null when only the head was asked for.
 */
export class LogCommit implements StoredCommit {
  readonly sequence: number;
  readonly workflowId: string;
  readonly type: string;
  readonly at: number;
  readonly commitId: string;
  readonly writer: string | null;
  readonly condition: RunCondition | null;
  readonly dueAt: number | null;
  readonly parent: string | null;
  readonly traceparent: string | null;
  #bytes: Uint8Array | null;
  #body: string | null = null;
  #events: readonly WorkflowEvent[] | null = null;

  constructor(head: CommitHead, bytes: Uint8Array | null) {
    this.sequence = head.sequence;
    this.workflowId = head.workflowId;
    this.type = head.type;
    this.at = head.at;
    this.commitId = head.commitId;
    this.writer = head.writer;
    this.condition = head.condition;
    this.dueAt = head.dueAt;
    this.parent = head.parent;
    this.traceparent = head.traceparent;
    this.#bytes = bytes;
  }

  get body(): string {
    if (this.#body !== null) return this.#body;
    if (this.#bytes === null) return "";
    try {
      this.#body = utf8.decode(this.#bytes);
    } catch (cause) {
      throw new MillraceError(
        "commit_malformed",
        `Commit at sequence ${this.sequence} of ${this.workflowId} is not UTF-8. Look for a foreign writer on the log.`,
        { cause, details: { sequence: this.sequence } },
      );
    }
    // The text is kept from here on, so the bytes need not be.
    this.#bytes = null;
    return this.#body;
  }

  get events(): readonly WorkflowEvent[] {
    if (this.#events !== null) return this.#events;
    if (this.#bytes === null && this.#body === null) {
      throw new MillraceError(
        "internal",
        `Commit at sequence ${this.sequence} of ${this.workflowId} was read without its body. Read it again with its body.`,
      );
    }
    this.#events = decodeCommit(this.body, this.sequence);
    return this.#events;
  }
}
