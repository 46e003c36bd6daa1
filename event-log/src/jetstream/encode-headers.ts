import { MillraceError } from "@millrace/schemas";

/** Printable ASCII: what ends a line would begin another header. */
const valid = /^[\x20-\x7e]*$/;

/**
 * Headers as they are sent; undefined values are left out. Written at once and not by the library, whose `set` looks
 * through all keys three times: that was a sixth of what an append allocates. `invalid_request` for what no header can
 * hold. Source of the format: NATS client protocol, HPUB.
 */
export function encodeHeaders(values: Readonly<Record<string, string | undefined>>): Uint8Array {
  let text = "NATS/1.0";
  for (const name in values) {
    const value = values[name];
    if (value === undefined) continue;
    if (!valid.test(value)) {
      throw new MillraceError("invalid_request", `Header ${name} must be printable ASCII. Mend the value.`);
    }
    text += `\r\n${name}: ${value}`;
  }
  return Buffer.from(`${text}\r\n\r\n`, "latin1");
}
