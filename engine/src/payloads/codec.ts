/**
 * Makes payloads unreadable (or smaller) before they leave the process, and readable again. It is given the JSON text
 * of one payload as UTF-8, and is asked about payloads only: names, attributes and error messages stay as they are.
 *
 * Both calls may be asynchronous. An error that is worth another try is a `MillraceError` with a retryable code
 * (`unavailable`); any other one from `decode` makes the payload `payload_corrupt`.
 */
export interface PayloadCodec {
  /** Stands with every payload in the log, 1 to 32 characters: never change it for data that is there. */
  readonly name: string;
  encode(json: Uint8Array): EncodedPayload | Promise<EncodedPayload>;
  decode(encoded: EncodedPayload): Uint8Array | Promise<Uint8Array>;
}

export interface EncodedPayload {
  readonly data: Uint8Array;
  /** Which of the codec's keys; stands in the log, readable. */
  readonly key?: string;
}
