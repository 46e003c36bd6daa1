import { MillraceError, type ErrorCode } from "@millrace/schemas";

const meanings: Readonly<Record<string, { readonly code: ErrorCode; readonly next: string }>> = {
  SQLITE_BUSY: { code: "data_folder_in_use", next: "Another process writes this file: stop one of the two." },
  SQLITE_CANTOPEN: {
    code: "data_folder_not_writable",
    next: "Check that the folder exists and that this user may write to it.",
  },
  SQLITE_READONLY: {
    code: "data_folder_not_writable",
    next: "Give this user the right to write to the folder.",
  },
  SQLITE_FULL: { code: "data_folder_not_writable", next: "The disk is full: make room and start again." },
  SQLITE_IOERR: { code: "data_folder_not_writable", next: "The disk failed: check it, then start again." },
  SQLITE_CORRUPT: {
    code: "internal",
    next: "Move the file away and start again: it is built anew from the log.",
  },
  SQLITE_NOTADB: {
    code: "internal",
    next: "Move the file away and start again: it is built anew from the log.",
  },
};

const rebuild = "It belongs to another Node version or was never built: run npm rebuild better-sqlite3.";

/** SQLite's errors as ours; anything else is passed through unchanged. `attempt` begins the message. */
export function sqliteError(error: unknown, attempt: string): unknown {
  if (!(error instanceof Error)) return error;
  // `tries` is what the loader of the binary adds when it finds none.
  if (("code" in error && error.code === "ERR_DLOPEN_FAILED") || "tries" in error) {
    const [reason = ""] = error.message.split("\n");
    return new MillraceError(
      "native_module_unsupported",
      `${attempt} failed: the better-sqlite3 binary does not load on Node ${process.versions.node} (${reason}). ${rebuild}`,
      { cause: error },
    );
  }
  if (!("code" in error) || typeof error.code !== "string") return error;
  // Extended codes append to the primary one: SQLITE_IOERR_WRITE.
  const primary = Object.keys(meanings).find((name) => String(error.code).startsWith(name));
  const meaning = primary === undefined ? undefined : meanings[primary];
  if (meaning === undefined) return error;
  return new MillraceError(
    meaning.code,
    `${attempt} failed: ${error.message} (${error.code}). ${meaning.next}`,
    {
      cause: error,
    },
  );
}
