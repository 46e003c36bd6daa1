/**
 * The port to the store of payloads that are too large for a commit. Two adapters, in `jetstream/` and `memory/`;
 * both pass `conformance/describe-blob-store.ts`.
 *
 * B1 A blob is never changed and its key never used again: a reference to it stays true.
 * B2 `get` answers with the very bytes that were put, or rejects.
 * B3 A put that ended half-way is listed (`complete: false`), so that it can be deleted.
 */
import { limits, MillraceError, parseBlobKey } from "@millrace/schemas";

/** What stands in the log instead of the bytes. */
export interface BlobRef {
  /** `<workflowId>/<ULID>`: the run that it belongs to, and with which it goes. */
  readonly key: string;
  readonly size: number;
  /** Hexadecimal SHA-256 of the bytes. */
  readonly sha256: string;
}

export interface BlobInfo {
  readonly key: string;
  readonly workflowId: string;
  /** Bytes as they were to be stored. */
  readonly size: number;
  /** False when its writer ended in the middle of the put. */
  readonly complete: boolean;
  /** When its last part was stored, by the broker's clock, milliseconds since 1970. */
  readonly storedAt: number;
}

export interface BlobStore {
  /**
   * Stores bytes for a run under a new key. Not idempotent: when it rejects, put them again, and the half-stored
   * first one is garbage. `payload_too_large` beyond `limits.blobBytes`, `unavailable`, `log_full`.
   */
  put(workflowId: string, bytes: Uint8Array): Promise<BlobRef>;
  /**
   * The bytes. With `expected`, they must be what that reference says. `payload_missing` when there is no such blob,
   * `payload_corrupt` when its size or SHA-256 differ, `unavailable`.
   */
  get(key: string, expected?: Pick<BlobRef, "size" | "sha256">): Promise<Uint8Array>;
  /** Idempotent: false when there was none. */
  delete(key: string): Promise<boolean>;
  /** The blobs there are when it begins, oldest first, read page by page; of one run, or of all. */
  list(options?: { readonly workflowId?: string }): AsyncIterable<BlobInfo>;
}

export function assertBlobSize(workflowId: string, size: number): void {
  if (size <= limits.blobBytes) return;
  throw new MillraceError(
    "payload_too_large",
    `A payload of ${workflowId} has ${size} bytes as stored, the limit is ${limits.blobBytes}. Store the data elsewhere and keep a reference.`,
    { details: { limit: limits.blobBytes, actual: size } },
  );
}

export function missingBlob(key: string): MillraceError {
  return new MillraceError(
    "payload_missing",
    `The stored payload ${key} of run ${parseBlobKey(key).workflowId} is not there (any more). Was the blob stream restored ` +
      "without the log, or cleaned by hand? Restore it from a backup.",
    { details: { key } },
  );
}

/** B2. */
export function assertBlob(
  key: string,
  actual: { readonly size: number; readonly sha256: string },
  expected: Pick<BlobRef, "size" | "sha256">,
): void {
  if (actual.size === expected.size && actual.sha256 === expected.sha256) return;
  throw new MillraceError(
    "payload_corrupt",
    `The stored payload ${key} is not what was stored: expected ${expected.size} bytes with SHA-256 ${expected.sha256}, ` +
      `found ${actual.size} bytes with ${actual.sha256}. Restore the blob stream from a backup.`,
    { details: { key, expected: expected.sha256, actual: actual.sha256 } },
  );
}
