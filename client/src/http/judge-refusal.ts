import { closeCodes, errorCodeOf, type GoneReason, type ServerFrame } from "@millrace/schemas";

/** An answer that is no stream. */
export interface Refusal {
  readonly status: number;
  /** The header `Retry-After`. */
  readonly retryAfter: string | null;
  /** The body, if it is problem details. */
  readonly problem: Readonly<Record<string, unknown>> | null;
}

export type Verdict =
  | { readonly do: "frame"; readonly frame: ServerFrame }
  /** The end of the connection, by a close code of the protocol. */
  | { readonly do: "close"; readonly code: number; readonly reason: string };

const goneReasons: Readonly<Record<string, GoneReason>> = {
  cursor_epoch: "epoch",
  cursor_expired: "expired",
  cursor_future: "future",
};

/** After a wait that the server asked for, clients come back spread over this much more. */
const spreadMs = 5_000;

const number = (value: unknown): number => (typeof value === "number" && value >= 0 ? value : 0);

/**
 * What an HTTP refusal of subscription `i` means in frames. `worked`: requests with this token were answered before,
 * so a 401 says that it has expired.
 */
export function judgeRefusal(i: number, refusal: Refusal, worked: boolean): Verdict {
  const { status, problem } = refusal;
  const code = problem === null ? null : errorCodeOf(problem["code"]);
  const detail = typeof problem?.["detail"] === "string" ? problem["detail"] : "";
  const said = `HTTP ${status}${detail === "" ? "" : `: ${detail}`}`;
  if (status === 401) {
    return { do: "close", code: worked ? closeCodes.tokenExpired : closeCodes.unauthenticated, reason: said };
  }
  if (code === null || problem === null) {
    // Not of our server: something between does not let the stream through.
    return { do: "close", code: 1006, reason: said };
  }
  const why = goneReasons[code];
  if (why !== undefined) {
    const e = typeof problem["epoch"] === "string" ? problem["epoch"] : "";
    const [first, head] = [number(problem["first"]), number(problem["head"])];
    return { do: "frame", frame: { t: "gone", i, why, e, first, head } };
  }
  const after = Math.max(0, Number(refusal.retryAfter ?? 0) || 0) * 1_000;
  if (code === "projector_behind") {
    return { do: "frame", frame: { t: "err", i, code, msg: detail, retry: true, after } };
  }
  if (status === 429 || status === 503) {
    const bounds = { min: Math.max(500, after), max: Math.max(500, after) + spreadMs };
    const bye = code === "draining" ? closeCodes.draining : closeCodes.overloaded;
    return { do: "frame", frame: { t: "bye", code: bye, ...bounds } };
  }
  if (status >= 500 || code === "route_unknown" || code === "method_not_allowed") {
    return { do: "close", code: 1006, reason: said };
  }
  return { do: "frame", frame: { t: "err", i, code, msg: detail, retry: false, after: 0 } };
}
