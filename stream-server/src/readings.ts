import type { RunFolds } from "./core/run-folds.ts";
import type { Seam } from "./core/seam.ts";
import type { KnownLog } from "./known-log.ts";
import type { Readings } from "./metrics.ts";
import type { Projection } from "@millrace/projector";
import type { Session } from "./session.ts";
import type { Snapshots } from "./snapshots.ts";

export interface ReadingsSource {
  readonly seam: Seam;
  readonly sessions: ReadonlySet<Session>;
  readonly known: KnownLog;
  readonly projection: Projection | null;
  readonly folds: RunFolds;
  readonly snapshots: Snapshots;
  /** The tail delivers. */
  readonly following: boolean;
}

/** Everything that a scrape asks for, as of now. */
export function takeReadings(source: ReadingsSource): Readings {
  const { seam, sessions, known, projection, folds, snapshots, following } = source;
  const connections = { "millrace.v1": 0, updates: 0 };
  let sum = 0;
  let max = 0;
  for (const { kind, connection } of sessions) {
    connections[kind]++;
    const buffered = connection.bufferedBytes();
    sum += buffered;
    max = Math.max(max, buffered);
  }
  const subscriptions = { live: 0, catchup: 0 };
  const { ring, head } = seam;
  let catchupLag = 0;
  for (const { mode, pos } of seam.subscriptions()) {
    if (mode !== "ended") subscriptions[mode]++;
    if (mode === "catchup") catchupLag = Math.max(catchupLag, head - pos);
  }
  // A node without a projection is not behind.
  const checkpoint = projection === null ? head : projection.checkpoint().sequence;
  return {
    connections,
    subscriptions,
    bufferedBytes: { sum, max },
    catchupLag,
    ring: {
      commits: ring.count,
      bytes: ring.bytes,
      spanSeconds: secondsSince(ring.oldestAt),
      pages: ring.pages,
    },
    tailLag: Math.max(0, known.info.lastSequence - head),
    projectorLag: Math.max(0, head - checkpoint),
    projectorLagSeconds: secondsSince(ring.oldestBeyond(checkpoint)),
    following,
    foldedStates: folds.count,
    snapshotsOpen: snapshots.count,
  };
}

function secondsSince(at: number | null): number {
  return at === null ? 0 : Math.max(0, Date.now() - at) / 1_000;
}
