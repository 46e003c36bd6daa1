/** The memory twin of the blob store. Owns nothing: the bytes are the server's, so that every connection sees them. */
import { createHash } from "node:crypto";
import { assertWorkflowId, blobKey, MillraceError, parseBlobKey } from "@millrace/schemas";
import { ulid } from "ulid";
import { assertBlob, assertBlobSize, missingBlob, type BlobRef, type BlobStore } from "../blob-store.ts";
import type { MemoryServer } from "./memory-server.ts";

export function createMemoryBlobs(server: MemoryServer, namespace: string): BlobStore {
  function stored(): ReturnType<MemoryServer["stream"]>["blobs"] {
    if (!server.connected) {
      throw new MillraceError(
        "unavailable",
        `The blob store of namespace ${namespace} is not reachable. Try again.`,
      );
    }
    return server.stream(namespace).blobs;
  }
  return {
    async put(workflowId, bytes) {
      assertWorkflowId(workflowId);
      assertBlobSize(workflowId, bytes.byteLength);
      const key = blobKey(workflowId, ulid());
      stored().set(key, { bytes: Uint8Array.from(bytes), storedAt: server.clock() });
      return refOf(key, bytes);
    },
    async get(key, expected) {
      parseBlobKey(key);
      const blob = stored().get(key);
      if (blob === undefined) throw missingBlob(key);
      if (expected !== undefined) assertBlob(key, refOf(key, blob.bytes), expected);
      return Uint8Array.from(blob.bytes);
    },
    async delete(key) {
      parseBlobKey(key);
      return stored().delete(key);
    },
    async *list({ workflowId } = {}) {
      for (const [key, { bytes, storedAt }] of [...stored()]) {
        const owner = parseBlobKey(key).workflowId;
        if (workflowId !== undefined && owner !== workflowId) continue;
        yield { key, workflowId: owner, size: bytes.byteLength, complete: true, storedAt };
      }
    },
  };
}

function refOf(key: string, bytes: Uint8Array): BlobRef {
  return { key, size: bytes.byteLength, sha256: createHash("sha256").update(bytes).digest("hex") };
}
