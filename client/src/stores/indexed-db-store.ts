import type { CursorStore } from "./cursor-store.ts";

const table = "cursors";

function settled<Result>(request: IDBRequest<Result>): Promise<Result> {
  return new Promise((resolve, reject) => {
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => reject(request.error ?? new Error("IndexedDB failed")));
  });
}

/**
 * Keeps cursors in the browser, for all pages of an origin: give each subscription its own key, and each tab too
 * where every tab has effects of its own.
 *
 * @param name of the database. Default `millrace`.
 */
export function indexedDbStore(name = "millrace"): CursorStore {
  let opened: Promise<IDBDatabase> | undefined;
  const open = (): Promise<IDBDatabase> => {
    opened ??= new Promise<IDBDatabase>((resolve, reject) => {
      const request = indexedDB.open(name, 1);
      request.addEventListener("upgradeneeded", () => request.result.createObjectStore(table));
      request.addEventListener("blocked", () =>
        reject(new Error(`the database ${name} is held by another page`)),
      );
      settled(request).then(resolve, reject);
    }).then((database) => {
      // The browser may close it (site data cleared), and another page may want to change or delete it.
      const forget = (): void => {
        opened = undefined;
      };
      database.addEventListener("close", forget);
      database.addEventListener("versionchange", () => {
        database.close();
        forget();
      });
      return database;
    });
    opened.catch(() => {
      opened = undefined;
    });
    return opened;
  };
  return {
    async load(key) {
      const database = await open();
      const found: unknown = await settled(database.transaction(table).objectStore(table).get(key));
      return typeof found === "string" ? found : null;
    },
    async save(key, cursor) {
      const database = await open();
      const transaction = database.transaction(table, "readwrite", { durability: "strict" });
      transaction.objectStore(table).put(cursor, key);
      await new Promise<void>((resolve, reject) => {
        transaction.addEventListener("complete", () => resolve());
        const refuse = (): void => reject(transaction.error ?? new Error("the transaction was aborted"));
        transaction.addEventListener("abort", refuse);
        transaction.addEventListener("error", refuse);
      });
    },
  };
}
