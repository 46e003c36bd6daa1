import { createHash } from "node:crypto";
import {
  isStoredForm,
  MillraceError,
  parseStoredForm,
  payloadFields,
  type StoredForm,
} from "@millrace/schemas";
import type { PayloadKeys } from "../config.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";
import { readHistory } from "./read-history.ts";

type Found = Exclude<StoredForm["$millrace"], { value: unknown }>;

/**
 * Prints the JSON of a payload that the history shows in its stored form. `ref`: the key of its blob, or the sequence
 * (`41`, or `41.0` with the event's index) for one that stands in the log. Sealed ones need `MILLRACE_PAYLOAD_KEYS`.
 */
export async function getPayload(
  api: ServerApi,
  output: Output,
  [id, ref]: readonly [string, string],
  keys: PayloadKeys | null,
): Promise<void> {
  const found = await find(api, id, ref);
  const bytes = "blob" in found ? await fetchBlob(api, id, found) : Buffer.from(found.data, "base64");
  const json = Buffer.from("codec" in found ? await open(bytes, found, keys) : bytes).toString("utf8");
  if (output.json) output.value(JSON.parse(json));
  else output.text(json);
}

async function find(api: ServerApi, id: string, ref: string): Promise<Found> {
  for await (const event of readHistory(api, id)) {
    for (const field of payloadFields[event.type as keyof typeof payloadFields] ?? []) {
      const payload = (event.data as Record<string, unknown>)[field];
      const inner = isStoredForm(payload) ? parseStoredForm(payload) : null;
      if (inner === null || "value" in inner) continue;
      const names = [String(event.sequence), `${event.sequence}.${event.index}`];
      if ("blob" in inner) names.push(inner.blob, inner.blob.split("/")[1] ?? "");
      if (names.includes(ref)) return inner;
    }
  }
  throw new MillraceError(
    "payload_missing",
    `The history of ${id} has no stored payload ${ref}. Look for "$millrace" in: millrace history ${id} --json`,
    { details: { id, ref } },
  );
}

async function fetchBlob(
  api: ServerApi,
  id: string,
  { blob, size, sha256 }: Extract<Found, { blob: string }>,
): Promise<Uint8Array> {
  const blobId = blob.split("/")[1] ?? "";
  const bytes = await api.bytes(
    `/v1/workflows/${encodeURIComponent(id)}/payloads/${encodeURIComponent(blobId)}`,
  );
  const actual = createHash("sha256").update(bytes).digest("hex");
  if (actual === sha256 && bytes.byteLength === size) return bytes;
  throw new MillraceError(
    "payload_corrupt",
    `Payload ${blob} is not what the history refers to: expected ${size} bytes with SHA-256 ${sha256}, got ` +
      `${bytes.byteLength} with ${actual}. Restore the blob stream from a backup.`,
  );
}

async function open(
  data: Uint8Array,
  { codec: name, key }: { readonly codec: string; readonly key?: string | undefined },
  keys: PayloadKeys | null,
): Promise<Uint8Array> {
  const { aesGcmCodec } = await import("@millrace/engine");
  const codec = keys === null ? null : aesGcmCodec(keys);
  if (codec?.name === name) return codec.decode(key === undefined ? { data } : { data, key });
  throw new MillraceError(
    "payload_sealed",
    `The payload is sealed with codec ${name}${key === undefined ? "" : `, key ${key}`}. ` +
      (name === "aes-gcm"
        ? `Give that key: MILLRACE_PAYLOAD_KEYS="${key ?? "id"}=<base64>".`
        : "This command opens aes-gcm only; open it with a program that has that codec."),
    { details: { codec: name, key: key ?? null } },
  );
}
