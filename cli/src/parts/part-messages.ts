/** What a supervisor and its parts tell each other over the channel between their processes. */
import { errorCodeOf, isMillraceError, MillraceError } from "@millrace/schemas";

export type PartMessage =
  | { readonly kind: "ready"; readonly url: string | null }
  /** The last word of a part that cannot start or go on. */
  | {
      readonly kind: "failed";
      readonly code: string;
      readonly message: string;
      readonly details: Readonly<Record<string, unknown>>;
    };

/** Ends in order. The end of the channel itself means that the supervisor is gone: end soon. */
export interface DrainMessage {
  readonly kind: "drain";
  readonly drainMs: number;
}

export function failedMessage(error: unknown): PartMessage {
  const known = isMillraceError(error);
  return {
    kind: "failed",
    code: known ? error.code : "internal",
    message: error instanceof Error ? error.message : String(error),
    details: known ? error.details : {},
  };
}

export function errorOf(message: Extract<PartMessage, { kind: "failed" }>): MillraceError {
  return new MillraceError(errorCodeOf(message.code), message.message, { details: message.details });
}
