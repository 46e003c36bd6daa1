export type { CursorStore } from "./cursor-store.ts";
export { indexedDbStore } from "./indexed-db-store.ts";
export { memoryStore } from "./memory-store.ts";
