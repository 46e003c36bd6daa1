/** What workflow code waits for: each `ctx` call that is not answered at once is one of these. */
import type { AttributeValue, EventData, ParentClosePolicy } from "@millrace/schemas";
import type { StepContext, StepOptions } from "./context.ts";
import type { Scope } from "./scope.ts";

interface RequestBase {
  /** Unique among what the code waits for at a time. */
  readonly key: string;
  readonly scope: Scope;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  /** What `ctx` gave for it. */
  promise: Promise<unknown> | null;
  /** The log holds something of it, so that its cancellation must stand there too. */
  recorded: boolean;
}

/** A function that this process runs. Its `key` is the step key. */
export interface StepRequest extends RequestBase {
  readonly kind: "step" | "compensation";
  readonly name: string;
  readonly occurrence: number;
  readonly fn: (step: StepContext) => unknown;
  readonly options: StepOptions;
}

/** A step that a queue's worker does. Its `key` is the step key. */
export interface TaskRequest extends RequestBase {
  readonly kind: "task";
  readonly name: string;
  readonly occurrence: number;
  /** Of its first attempt; later ones differ in attempt and token. */
  scheduled: EventData<"StepScheduled">;
}

export interface TimerRequest extends RequestBase {
  readonly kind: "timer";
  readonly timer: string;
  /** Milliseconds since 1970; as recorded once it is. */
  dueAt: number;
}

export interface WaitRequest extends RequestBase {
  readonly kind: "wait";
  readonly wait: string;
  /** Null: for `until`. */
  readonly signal: string | null;
  readonly until: (() => boolean) | null;
  dueAt: number | null;
}

export interface ChildRequest extends RequestBase {
  readonly kind: "child";
  readonly child: string;
  readonly started: EventData<"ChildWorkflowStarted">;
}

export type Request = StepRequest | TaskRequest | TimerRequest | WaitRequest | ChildRequest;

/** Step names have no control characters, so that keys of other kinds begin with one. */
export const requestKey = {
  timer: (timer: string): string => `\u0001${timer}`,
  wait: (wait: string): string => `\u0002${wait}`,
  child: (child: string): string => `\u0003${child}`,
};

export interface ChildOptions {
  /** Workflow id of the child. Default: `<parent>-<type>-<n>`; the same one again is another start, and refused. */
  readonly id?: string;
  /** What happens to the child when this run closes or the call is cancelled. Default `cancel`. */
  readonly onClose?: ParentClosePolicy;
  readonly attributes?: Readonly<Record<string, AttributeValue>>;
  /** Time limit of the child, milliseconds. Default: its definition's. */
  readonly timeoutMs?: number;
}
