import type { SubscribeFrame } from "@millrace/schemas";

/** A `sub` frame as the query of `GET /v1/stream`, from another position when one is given. */
export function streamQuery(frame: SubscribeFrame, cursor: string | null): URLSearchParams {
  const query = new URLSearchParams();
  const { filter = {} } = frame;
  for (const field of ["workflow", "type", "status", "event"] as const) {
    for (const value of filter[field] ?? []) query.append(field, value);
  }
  for (const [key, wanted] of Object.entries(filter.attr ?? {})) {
    for (const value of Array.isArray(wanted) ? wanted : [wanted]) query.append(`attr.${key}`, String(value));
  }
  query.set("from", cursor ?? frame.from ?? "now");
  if (frame.min !== undefined) query.set("min", String(frame.min));
  if (frame.shape !== undefined && frame.shape !== "events") query.set("shape", frame.shape);
  if (frame.until !== undefined) query.set("until", frame.until);
  return query;
}
