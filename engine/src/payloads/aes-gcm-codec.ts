import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { MillraceError } from "@millrace/schemas";
import type { PayloadCodec } from "./codec.ts";

export interface AesGcmOptions {
  /** 32 bytes each, by id, or their base64. The id stands in the log with every payload. Old keys still open. */
  readonly keys: Readonly<Record<string, Uint8Array | string>>;
  /** Id of the key that seals. */
  readonly current: string;
}

const algorithm = "aes-256-gcm";
const keyBytes = 32;
/** 96 bits: the size for which GCM is made (NIST SP 800-38D, 8.2). */
const nonceBytes = 12;
const tagBytes = 16;

/**
 * A codec that encrypts with AES-256-GCM: a random nonce per payload, the key's id as associated data. What it stores
 * is nonce, ciphertext, tag.
 *
 * To rotate, give every process the new key beside the old one, then make it `current`, and drop the old one when no
 * history that it sealed is needed any more. A random nonce is good for 2^32 payloads per key (NIST SP 800-38D, 8.3).
 *
 * Throws `invalid_request` for a key of another size or a `current` that is none of them. Opening rejects with
 * `payload_sealed` for a key that is not here, `payload_corrupt` when the data was changed.
 *
 * @example
 * const codec = aesGcmCodec({ keys: { "2026-11": process.env.PAYLOAD_KEY }, current: "2026-11" });
 * const millrace = await connect({ payloads: { codec } });
 */
export function aesGcmCodec(options: AesGcmOptions): PayloadCodec {
  const keys = new Map(Object.entries(options.keys).map(([id, key]) => [id, keyOf(id, key)]));
  const { current } = options;
  const sealing = keys.get(current);
  if (sealing === undefined) {
    throw new MillraceError(
      "invalid_request",
      `Payload codec refused: the current key ${JSON.stringify(current)} is none of its keys (${[...keys.keys()].join(", ")}). Give it that key.`,
    );
  }
  return {
    name: "aes-gcm",
    encode(json) {
      const nonce = randomBytes(nonceBytes);
      const cipher = createCipheriv(algorithm, sealing, nonce).setAAD(associated(current));
      const data = Buffer.concat([nonce, cipher.update(json), cipher.final(), cipher.getAuthTag()]);
      return { key: current, data };
    },
    decode({ key: id = "", data }) {
      const key = keys.get(id);
      if (key === undefined) {
        throw new MillraceError(
          "payload_sealed",
          `A payload is sealed with key ${JSON.stringify(id)} of codec aes-gcm; this process has ${[...keys.keys()].join(", ")}. ` +
            "Give it that key too: a key is dropped only when nothing that it sealed is needed.",
          { details: { codec: "aes-gcm", key: id } },
        );
      }
      const end = data.byteLength - tagBytes;
      try {
        const opening = createDecipheriv(algorithm, key, data.subarray(0, nonceBytes), {
          authTagLength: tagBytes,
        })
          .setAAD(associated(id))
          .setAuthTag(data.subarray(Math.max(0, end)));
        return Buffer.concat([opening.update(data.subarray(nonceBytes, end)), opening.final()]);
      } catch (cause) {
        throw new MillraceError(
          "payload_corrupt",
          `A payload sealed with key ${JSON.stringify(id)} of codec aes-gcm does not open: it was changed, or another key ` +
            "has that id here. Compare the keys of the processes.",
          { cause, details: { codec: "aes-gcm", key: id } },
        );
      }
    },
  };
}

function associated(id: string): Buffer {
  return Buffer.from(`millrace aes-gcm ${id}`);
}

function keyOf(id: string, given: Uint8Array | string): Uint8Array {
  const key = typeof given === "string" ? Buffer.from(given, "base64") : given;
  if (key.byteLength === keyBytes && id.length > 0) return key;
  throw new MillraceError(
    "invalid_request",
    `Key ${JSON.stringify(id)} of the payload codec has ${key.byteLength} bytes, it must have an id and ${keyBytes} bytes. ` +
      "Make one with: openssl rand -base64 32",
    { details: { key: id, limit: keyBytes, actual: key.byteLength } },
  );
}
