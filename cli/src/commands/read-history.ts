import type { EventRow, Page } from "@millrace/schemas";
import type { ServerApi } from "../server-api.ts";

const pageItems = 1_000;

export interface HistoryRange {
  /** `next` of a page, exclusive. */
  readonly after?: string;
  /** Events in all; default: to the end. */
  readonly limit?: number;
}

/** A run's events in order, read page by page. */
export async function* readHistory(
  api: ServerApi,
  id: string,
  range: HistoryRange = {},
): AsyncGenerator<EventRow> {
  let { after } = range;
  let left = range.limit ?? Number.POSITIVE_INFINITY;
  while (left > 0) {
    const limit = String(Math.min(left, pageItems));
    const path = `/v1/workflows/${encodeURIComponent(id)}/events`;
    const page = (await api.get(path, { after, limit })) as Page<EventRow>;
    yield* page.items;
    left -= page.items.length;
    if (page.next === null) return;
    after = page.next;
  }
}
