import type { ServerFrame } from "@millrace/schemas";
import type { SendWindow } from "./send-window.ts";
import type { Topic } from "./topic.ts";

export type Payload = string | Uint8Array;

/** One connection, as the seam sees it. Calls on a closed one do nothing. */
export interface Outlet {
  /** Bytes accepted by `send` that the network has not taken yet. */
  bufferedBytes(): number;
  /** Queues a frame with events. Never drops: an outlet that cannot keep this closes itself. */
  send(payload: Payload): void;
  /** Queues any other frame; an outlet without such frames ignores it. */
  control(frame: ServerFrame): void;
}

/** Where one subscription stands. Only the seam writes to it. */
export interface Subscription {
  /** The id that the client chose. */
  readonly i: number;
  readonly outlet: Outlet;
  readonly topic: Topic;
  /** The run whose end ends the subscription; null: none. */
  readonly untilClosed: string | null;
  /** Null: the client says nothing about what it has handled. */
  readonly window: SendWindow | null;
  /**
   * Every run's row as of a sequence beyond this was sent, or will be with the run's commit: the next may say only
   * what changed. Infinity when the filter leaves out commits of a run.
   */
  readonly began: number;
  mode: "catchup" | "live" | "ended";
  /** Everything up to here that matches was sent. */
  pos: number;
  /** `s` of the last frame sent: what the client's cursor is once it has read everything. */
  lastS: number;
  /** A page was asked for and has not come. */
  reading: boolean;
}
