import type { SeamLimits } from "./core/seam.ts";
import type { SnapshotLimits } from "./snapshots.ts";

export interface HubSettings extends SeamLimits, SnapshotLimits {
  readonly node: string;
  readonly heartbeatMs: number;
  readonly helloTimeoutMs: number;
  /** A socket of which no byte has left for so long is closed with 4002. */
  readonly stuckMs: number;
  /** Bytes waiting in all sockets together; beyond it the largest are demoted and new subscriptions refused. */
  readonly bufferedBytesMax: number;
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
