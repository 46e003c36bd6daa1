import type { CursorStore } from "./cursor-store.ts";

/** Keeps cursors as long as the page or process lives: for tests, and for subscriptions that come and go. */
export function memoryStore(): CursorStore {
  const cursors = new Map<string, string>();
  return {
    load: (key) => Promise.resolve(cursors.get(key) ?? null),
    save(key, cursor) {
      cursors.set(key, cursor);
      return Promise.resolve();
    },
  };
}
