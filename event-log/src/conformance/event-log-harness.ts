import type { EventLog } from "../event-log.ts";

export interface OpenOptions {
  /** Time for one answer of the server, in milliseconds. Default 400: short, so that a lost answer is found soon. */
  readonly appendTimeoutMs?: number;
  /** Time for all attempts of one append, in milliseconds. Default 30,000. */
  readonly appendBudgetMs?: number;
  /** Default 30,000. */
  readonly taskLeaseMs?: number;
}

/** What can go wrong with one append on its way. */
export type AppendFault =
  /** It never arrives. */
  | "lose-append"
  /** It arrives twice. */
  | "duplicate-append"
  /** The connection breaks in the middle of it. */
  | "cut-mid-append"
  /** It is stored, the answer never comes. */
  | "lose-answer"
  /** It is stored, the answer comes after the time-out. */
  | "delay-answer"
  /** It is stored, the connection breaks before the answer. */
  | "cut-before-answer";

export const appendFaults: readonly AppendFault[] = [
  "lose-append",
  "duplicate-append",
  "cut-mid-append",
  "lose-answer",
  "delay-answer",
  "cut-before-answer",
];

/** What the conformance suite needs of an adapter: connections to one server, and that server's misfortunes. */
export interface EventLogHarness {
  /** Another connection to the log of `namespace`. Closed by `stop` at the latest. */
  open(namespace: string, options?: OpenOptions): Promise<EventLog>;
  /** Like `open`, for a log made with a cap of commits per run. */
  openCapped(namespace: string, runCommitsMax: number): Promise<EventLog>;
  /** Strikes the next append of any connection. Resolves when it happened. */
  strikeNext(fault: AppendFault): Promise<void>;
  /** Kills the server as a power switch does. Every connection is lost. */
  kill(): Promise<void>;
  /** Starts it again with what it had stored. */
  start(): Promise<void>;
  /** Keeps a copy of what is stored (stops and starts the server). */
  backUp(): Promise<void>;
  /** Puts that copy in place of what is stored: later commits are lost (stops and starts the server). */
  restore(): Promise<void>;
  /** Throws the namespace's log away and makes another one under its name, while connections are lost. */
  recreate(namespace: string): Promise<void>;
  stop(): Promise<void>;
}
