import type { SeamLimits } from "./core/seam.ts";
import type { SnapshotLimits } from "./snapshots.ts";

/** What a herd of returning clients may begin. */
export interface HerdLimits {
  /** Catch-ups beyond the ring that begin per second, and how many at once after a quiet time. */
  readonly deepPerSecond: number;
  readonly deepBurst: number;
  /** Those that wait for that, in order; one more is refused with `overloaded`. */
  readonly deepWaitingMax: number;
  /** New connections per second, and how many at once after a quiet time; more are refused with 503 `overloaded`. */
  readonly connectionsPerSecond: number;
  readonly connectionsBurst: number;
}

export interface HubSettings extends SeamLimits, SnapshotLimits, HerdLimits {
  readonly node: string;
  readonly heartbeatMs: number;
  readonly helloTimeoutMs: number;
  /** A socket of which no byte has left for so long is closed with 4002. */
  readonly stuckMs: number;
  /** Bytes waiting in all sockets together; beyond it the largest are demoted and new subscriptions refused. */
  readonly bufferedBytesMax: number;
  /**
   * Memory of the stream in bytes: ring, sockets, snapshots on their way, shared pages, histories. Beyond it the same
   * is done, after what is only kept for others was let go. Must be more than the ring's `bytesMax`.
   */
  readonly memoryBytesMax: number;
  readonly subscriptionsPerSocket: number;
  /** Open WebSocket connections; one more is refused with 503 `overloaded`. */
  readonly connectionsMax: number;
  /** `min` waits so long for the projector. */
  readonly projectorWaitMs: number;
  /** Over how long `gone` is spread when the log was made anew. */
  readonly goneSpreadMs: number;
  readonly tickMs: number;
}

/** One turn's worth of catch-up work: others get theirs between. */
export const turnSliceMs = 8;
