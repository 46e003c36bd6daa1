/**
 * The blob store on NATS JetStream: a stream of its own, one subject per blob, the parts of a blob in order on it.
 *
 * Owns: the stream, made at first use. Does not own: which blobs are still referred to (the engine's `collectGarbage`).
 *
 * I1 A part is sent once. After a lost acknowledgement the whole blob is put again under another key.
 * I2 What is read comes from the leader: a blob that a commit refers to is there for whoever sees the commit.
 *
 * Why not JetStream's object store: it cannot list what belongs to a run, it keeps a marker of every deleted object,
 * parts of a put that ended half-way are never found again, and its reader waits for ever for parts that are gone.
 */
import { createHash } from "node:crypto";
import {
  AckPolicy,
  DeliverPolicy,
  DiscardPolicy,
  JetStreamApiError,
  JetStreamApiCodes,
  RetentionPolicy,
  StorageType,
  type JetStreamClient,
  type JetStreamManager,
  type JsMsg,
  type MsgRequest,
  type StoredMsg,
} from "@nats-io/jetstream";
import { headers, type MsgHdrs } from "nats";
import { ulid } from "ulid";
import {
  assertWorkflowId,
  blobKey,
  blobSubject,
  isMillraceError,
  logNames,
  MillraceError,
  parseBlobKey,
} from "@millrace/schemas";
import {
  assertBlob,
  assertBlobSize,
  missingBlob,
  type BlobInfo,
  type BlobRef,
  type BlobStore,
} from "../blob-store.ts";
import { toMillraceError } from "./broker-errors.ts";
import { timeOf } from "./commit-message.ts";

/** `<index>/<count>` of a part, and what the whole blob is. */
const partHeader = "Millrace-Part";
const sizeHeader = "Millrace-Size";
const digestHeader = "Millrace-Sha256";

/** Half of the broker's usual `max_payload`. */
const partBytes = 524_288;
/** Heads in memory while listing. */
const pageBlobs = 1_000;
const pageWaitMs = 5_000;
/** The broker drops a list's consumer that nobody asks for that long; deleting a page of blobs may take a while. */
const listIdleMs = 300_000;

export interface BlobStreamParts {
  readonly manager: JetStreamManager;
  readonly client: JetStreamClient;
  readonly namespace: string;
  readonly replicas: number;
}

export class BlobStream implements BlobStore {
  readonly #parts: BlobStreamParts;
  readonly #stream: string;
  #made: Promise<void> | null = null;

  constructor(parts: BlobStreamParts) {
    this.#parts = parts;
    this.#stream = logNames(parts.namespace).blobStream;
  }

  async put(workflowId: string, bytes: Uint8Array): Promise<BlobRef> {
    assertWorkflowId(workflowId);
    assertBlobSize(workflowId, bytes.byteLength);
    const attempt = `Storing a payload of ${workflowId}`;
    await this.#ensure(attempt);
    const blobId = ulid();
    const subject = blobSubject(this.#parts.namespace, workflowId, blobId);
    const size = bytes.byteLength;
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    const count = Math.max(1, Math.ceil(size / partBytes));
    try {
      for (let index = 0; index < count; index++) {
        const part = bytes.subarray(index * partBytes, (index + 1) * partBytes);
        const told = headers();
        told.set(partHeader, `${index}/${count}`);
        told.set(sizeHeader, String(size));
        told.set(digestHeader, sha256);
        // The broker gives no acknowledgement to a stream that is not there: the library's retries would hide that.
        await this.#parts.client.publish(subject, part, { headers: told, retries: 1 });
      }
    } catch (error) {
      this.#made = null;
      throw toMillraceError(error, attempt);
    }
    return { key: blobKey(workflowId, blobId), size, sha256 };
  }

  async get(key: string, expected?: Pick<BlobRef, "size" | "sha256">): Promise<Uint8Array> {
    const { workflowId, blobId } = parseBlobKey(key);
    const subject = blobSubject(this.#parts.namespace, workflowId, blobId);
    const parts: Uint8Array[] = [];
    let told: { size: number; sha256: string } | null = null;
    let [from, count] = [1, 1];
    for (let index = 0; index < count; index++) {
      const stored = await this.#read(from, subject, `Reading payload ${key}`);
      if (stored === null) throw missingBlob(key);
      const part = partOf(stored.header);
      if (part.index !== index) throw missingBlob(key);
      told ??= part;
      count = part.count;
      parts.push(stored.data);
      from = stored.seq + 1;
    }
    const bytes = parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts);
    const actual = {
      size: bytes.byteLength,
      sha256: createHash("sha256").update(bytes).digest("hex"),
    };
    assertBlob(key, actual, expected ?? told ?? actual);
    return bytes;
  }

  async delete(key: string): Promise<boolean> {
    const { workflowId, blobId } = parseBlobKey(key);
    const filter = blobSubject(this.#parts.namespace, workflowId, blobId);
    try {
      const { purged } = await this.#parts.manager.streams.purge(this.#stream, { filter });
      return purged > 0;
    } catch (error) {
      if (isMissingStream(error)) return false;
      throw toMillraceError(error, `Deleting payload ${key}`);
    }
  }

  async *list({ workflowId }: { readonly workflowId?: string } = {}): AsyncGenerator<BlobInfo> {
    if (workflowId !== undefined) assertWorkflowId(workflowId);
    const { manager, client, namespace } = this.#parts;
    const attempt = `Listing the payloads of namespace ${namespace}`;
    let name: string | null = null;
    try {
      const made = await manager.consumers.add(this.#stream, {
        deliver_policy: DeliverPolicy.LastPerSubject,
        filter_subject: blobSubject(namespace, workflowId ?? "*", "*"),
        ack_policy: AckPolicy.None,
        headers_only: true,
        mem_storage: true,
        inactive_threshold: listIdleMs * 1_000_000,
      });
      name = made.name;
      const consumer = await client.consumers.get(this.#stream, name);
      let left = made.num_pending;
      while (left > 0) {
        const page = await consumer.fetch({
          max_messages: Math.min(pageBlobs, left),
          expires: pageWaitMs,
        });
        const infos: BlobInfo[] = [];
        for await (const message of page) infos.push(infoOf(message));
        // A blob that was deleted meanwhile is not delivered, and not waited for.
        left = infos.length === 0 ? 0 : left - infos.length;
        yield* infos;
      }
    } catch (error) {
      if (isMissingStream(error)) return;
      throw toMillraceError(error, attempt);
    } finally {
      // Best effort: the broker drops an abandoned consumer by itself.
      if (name !== null) void manager.consumers.delete(this.#stream, name).catch(() => false);
    }
  }

  /** The first message of a subject from a sequence on, from the leader (I2). */
  async #read(from: number, subject: string, attempt: string): Promise<StoredMsg | null> {
    try {
      // The leader takes `next_by_subj` as direct reads do; only the library's type does not say so.
      const query = { seq: from, next_by_subj: subject } as unknown as MsgRequest;
      return await this.#parts.manager.streams.getMessage(this.#stream, query);
    } catch (error) {
      if (isMissingStream(error)) return null;
      throw toMillraceError(error, attempt);
    }
  }

  #ensure(attempt: string): Promise<void> {
    this.#made ??= this.#make(attempt).catch((error: unknown) => {
      this.#made = null;
      throw error;
    });
    return this.#made;
  }

  async #make(attempt: string): Promise<void> {
    const { manager, namespace, replicas } = this.#parts;
    try {
      await manager.streams.info(this.#stream);
      return;
    } catch (error) {
      if (!isMissingStream(error)) throw toMillraceError(error, attempt);
    }
    try {
      await manager.streams.add({
        name: this.#stream,
        subjects: [logNames(namespace).allBlobs],
        retention: RetentionPolicy.Limits,
        storage: StorageType.File,
        num_replicas: replicas,
        // A full store is an error for the writer, never the silent loss of the oldest payloads.
        discard: DiscardPolicy.New,
        max_age: 0,
        allow_direct: true,
      });
    } catch (error) {
      // Somebody else made it just now, perhaps with other replicas: theirs stands.
      await manager.streams.info(this.#stream).catch(() => {
        throw toMillraceError(error, attempt);
      });
    }
  }
}

function infoOf(message: JsMsg): BlobInfo {
  const [, , workflowId = "", blobId = ""] = message.subject.split(".");
  const { size, index, count } = partOf(message.headers);
  return {
    key: blobKey(workflowId, blobId),
    workflowId,
    size,
    complete: index === count - 1,
    storedAt: timeOf(message),
  };
}

function partOf(stored: MsgHdrs | undefined): {
  readonly index: number;
  readonly count: number;
  readonly size: number;
  readonly sha256: string;
} {
  const [index = Number.NaN, count = Number.NaN] = (stored?.get(partHeader) ?? "").split("/").map(Number);
  const size = Number(stored?.get(sizeHeader));
  if (!Number.isSafeInteger(index) || !Number.isSafeInteger(count) || !Number.isSafeInteger(size)) {
    throw new MillraceError(
      "payload_corrupt",
      "A message in the blob stream is no part of a payload. Look for a foreign writer on it.",
    );
  }
  return { index, count, size, sha256: stored?.get(digestHeader) ?? "" };
}

function isMissingStream(error: unknown): boolean {
  const cause = isMillraceError(error) ? error.cause : error;
  return cause instanceof JetStreamApiError && cause.code === JetStreamApiCodes.StreamNotFound;
}
