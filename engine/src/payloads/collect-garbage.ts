import type { BlobInfo, EventLog } from "@millrace/event-log";
import { storedLog } from "./sealed-log.ts";

export interface GarbageOptions {
  /**
   * Younger blobs are left alone: their commit may be on its way. An append gives up long before the default of
   * 3,600,000 (one hour); do not go below a minute while engines run.
   */
  readonly olderThanMs?: number;
  /** Only count. Default false. */
  readonly dryRun?: boolean;
  /** Milliseconds since 1970. Default: the machine's clock; ages are by the broker's. */
  readonly now?: number;
  readonly signal?: AbortSignal;
  /** Told of each orphan, before it is deleted. */
  readonly onOrphan?: (blob: BlobInfo) => void;
}

export interface GarbageReport {
  readonly blobs: number;
  /** Younger than `olderThanMs`. */
  readonly young: number;
  /** Referred to by the history of their run. */
  readonly referenced: number;
  /** Neither: of commits that never landed, of writers that died half-way, of runs that are gone. */
  readonly orphans: number;
  readonly orphanBytes: number;
  /** Equal to `orphans`, or 0 in a dry run. */
  readonly deleted: number;
}

/** Blobs whose runs are looked at together: what is in memory of the list at once. */
const batchBlobs = 1_000;
const olderThanMsDefault = 3_600_000;
/** Every reference in a commit, and perhaps more: what looks like one keeps its blob. */
const reference = /"blob":"([A-Za-z0-9_-]+\/[0-9A-Z]{26})"/g;

/**
 * Deletes the blobs that no history refers to. Safe beside running engines and beside another collection; may be
 * ended at any time and begun again. Reads each run's history once per 1,000 blobs listed, one run at a time.
 *
 * Rejects with `unavailable`, or the signal's reason.
 */
export async function collectGarbage(log: EventLog, options: GarbageOptions = {}): Promise<GarbageReport> {
  // Through a sealed log every reference would be resolved before it is seen.
  const stored = storedLog(log);
  const { olderThanMs = olderThanMsDefault, dryRun = false, now = Date.now(), signal, onOrphan } = options;
  const report = { blobs: 0, young: 0, referenced: 0, orphans: 0, orphanBytes: 0, deleted: 0 };
  let batch = new Map<string, BlobInfo[]>();
  let batched = 0;

  const collect = async (): Promise<void> => {
    for (const [workflowId, blobs] of batch) {
      signal?.throwIfAborted();
      const kept = await referencesOf(stored, workflowId);
      for (const blob of blobs) {
        if (kept.has(blob.key)) {
          report.referenced++;
          continue;
        }
        report.orphans++;
        report.orphanBytes += blob.size;
        onOrphan?.(blob);
        if (dryRun) continue;
        await stored.blobs.delete(blob.key);
        report.deleted++;
      }
    }
    batch = new Map();
    batched = 0;
  };

  for await (const blob of stored.blobs.list()) {
    signal?.throwIfAborted();
    report.blobs++;
    if (blob.storedAt > now - olderThanMs) {
      report.young++;
      continue;
    }
    const ofRun = batch.get(blob.workflowId) ?? [];
    ofRun.push(blob);
    batch.set(blob.workflowId, ofRun);
    if (++batched >= batchBlobs) await collect();
  }
  await collect();
  return report;
}

async function referencesOf(log: EventLog, workflowId: string): Promise<Set<string>> {
  const keys = new Set<string>();
  for (const { body } of await log.load(workflowId)) {
    // The text, not the events: a commit that this version cannot read keeps its blobs.
    for (const [, key] of body.matchAll(reference)) if (key !== undefined) keys.add(key);
  }
  return keys;
}
