/**
 * Tells when a page comes back (to the front, from the cache of its history, from a freeze) or its network does: a
 * moment at which to test the connection, or to make one without waiting for the backoff. Answers how to stop.
 */
export function onPageNudge(nudge: () => void): () => void {
  const page = globalThis as Partial<Pick<Window, "addEventListener" | "removeEventListener" | "document">>;
  const visible = (): void => {
    if (page.document?.visibilityState === "visible") nudge();
  };
  page.addEventListener?.("online", nudge);
  page.addEventListener?.("pageshow", nudge);
  page.document?.addEventListener("visibilitychange", visible);
  page.document?.addEventListener("resume", nudge);
  return () => {
    page.removeEventListener?.("online", nudge);
    page.removeEventListener?.("pageshow", nudge);
    page.document?.removeEventListener("visibilitychange", visible);
    page.document?.removeEventListener("resume", nudge);
  };
}
