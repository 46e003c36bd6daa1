import {
  closeCodes,
  errorCodeOf,
  formatCursor,
  MillraceError,
  type Cursor,
  type ErrorCode,
  type GoneReason,
} from "@millrace/schemas";

/** What the server says when a cursor cannot be resumed. */
export interface GoneNotice {
  readonly why: GoneReason;
  readonly epoch: string;
  readonly first: number;
  readonly head: number;
}

const goneCodes: Readonly<Record<GoneReason, ErrorCode>> = {
  epoch: "cursor_epoch",
  expired: "cursor_expired",
  purged: "cursor_expired",
  future: "cursor_future",
};

const goneReasons: Readonly<Record<GoneReason, string>> = {
  epoch: "the log was created anew since",
  expired: "the log no longer keeps the events after it",
  purged: "the events after it were purged",
  future: "it lies after the end of the log",
};

/** The error of a subscription whose cursor cannot be resumed: `cursor_epoch`, `cursor_expired` or `cursor_future`. */
export function goneError(position: Cursor | null, notice: GoneNotice): MillraceError {
  const cursor = position === null ? null : formatCursor(position.epoch, position.sequence);
  return new MillraceError(
    goneCodes[notice.why] ?? "cursor_expired",
    `Resume from cursor ${cursor ?? "(none)"} refused: ${goneReasons[notice.why] ?? notice.why}. ` +
      `The log is now ${notice.epoch}, sequences ${notice.first} to ${notice.head}. ` +
      `Events may be missing: begin again with from: "snapshot" or "start", or set onGone to do so.`,
    { details: { cursor, why: notice.why, epoch: notice.epoch, first: notice.first, head: notice.head } },
  );
}

const finalCodes: Readonly<Record<number, ErrorCode>> = {
  [closeCodes.badFrame]: "invalid_request",
  [closeCodes.unauthenticated]: "forbidden",
  [closeCodes.noHello]: "hello_missing",
  [closeCodes.forbidden]: "forbidden",
  [closeCodes.version]: "protocol_version",
  [closeCodes.connectionLimit]: "limit_exceeded",
  [closeCodes.frameTooBig]: "frame_too_large",
};

/** The error of a close code that is final (4500 to 4999). `told` is the server's last connection-wide `err`. */
export function finalCloseError(
  code: number,
  reason: string,
  told: { readonly code: string; readonly msg: string } | null,
): MillraceError {
  const detail = told?.msg ?? reason;
  return new MillraceError(
    told === null ? (finalCodes[code] ?? "internal") : errorCodeOf(told.code),
    `The stream server closed the connection for good with code ${code}${detail === "" ? "" : `: ${detail}`}. ` +
      `Connecting again as before would end the same way: mend the cause first.`,
    { retryable: false, details: { closeCode: code, reason } },
  );
}
