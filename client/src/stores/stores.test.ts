import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isMillraceError } from "@millrace/schemas";
import { afterEach, expect, test } from "vitest";
import { WebSocket } from "ws";
import { createClient, type Client, type CursorStore } from "../index.ts";
import { ev, ScriptedServer, within } from "../testing/scripted-server.ts";
import { fileStore } from "./file-store.ts";
import { keepCursor } from "./keep-cursor.ts";
import { memoryStore } from "./memory-store.ts";

const closing: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function start(): Promise<{ client: Client; server: ScriptedServer }> {
  const server = await ScriptedServer.start();
  const client = createClient({ url: server.url, WebSocket, backoff: { minMs: 5, maxMs: 20 } });
  closing.push(
    () => server.stop(),
    () => client.close(),
  );
  return { client, server };
}

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "millrace-cursors-"));
  closing.push(() => rm(path, { recursive: true }));
  return path;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test.each(["memory", "file"])("a %s store gives back what was saved last, by key", async (kind) => {
  const path = await folder();
  const store = kind === "memory" ? memoryStore() : fileStore(join(path, "made", "when needed"));
  expect(await store.load("a/b ü")).toBeNull();
  await store.save("a/b ü", "9f3a.1");
  await store.save("a/b ü", "9f3a.2");
  await store.save("other", "9f3a.7");
  expect(await store.load("a/b ü")).toBe("9f3a.2");
  expect(await store.load("other")).toBe("9f3a.7");
});

test("another process finds what a file store has saved, and nothing half-written", async () => {
  const path = await folder();
  await fileStore(path).save("orders", "9f3a.7");
  await writeFile(join(path, "orders.cursor.next"), "half a curs");
  expect(await fileStore(path).load("orders")).toBe("9f3a.7");
});

test("I1: the cursor is saved after the handler has resolved, and the next life begins there", async () => {
  const { client, server } = await start();
  const saved: string[] = [];
  const memory = memoryStore();
  const store: CursorStore = {
    load: (key) => memory.load(key),
    async save(key, cursor) {
      saved.push(cursor);
      await memory.save(key, cursor);
    },
  };
  let finish = (): void => undefined;
  const handled: number[] = [];
  const failure = new Promise<unknown>((resolve) => {
    const subscribed = client.subscribe(
      {},
      {
        from: "start",
        store,
        key: "orders",
        async onEvent({ sequence }) {
          handled.push(sequence);
          if (sequence === 9) await new Promise<void>((done) => (finish = done));
        },
        onError: resolve,
      },
    );
    closing.push(() => subscribed.close());
  });
  const connection = await server.connection();
  await connection.greet();
  const sub = await connection.accept();
  expect(sub.from).toBe("start");
  connection.send(ev(sub.i, 0, 9, [5, 9]));
  while (handled.length < 2) await turn();
  await turn();
  expect(await memory.load("orders")).toBe("9f3a.5");
  finish();
  while (saved.at(-1) !== "9f3a.9") await turn();

  const again = client.watch({}, { from: "start", store, key: "orders" });
  expect((await connection.accept()).from).toBe("9f3a.9");
  expect(again.cursor).toBe("9f3a.9");
  expect(await Promise.race([failure, turn()])).toBeUndefined();
});

test("I2: of the cursors that come during a write only the last is written", async () => {
  const written: string[] = [];
  let finish = (): void => undefined;
  const store: CursorStore = {
    load: () => Promise.resolve(null),
    save(_key, cursor) {
      written.push(cursor);
      return new Promise((resolve) => (finish = resolve));
    },
  };
  const put = keepCursor(store, "k", {
    begin: () => undefined,
    fail(message) {
      throw new Error(message);
    },
  });
  for (let sequence = 1; sequence <= 100; sequence += 1) put(`9f3a.${sequence}`);
  finish();
  await turn();
  finish();
  await turn();
  expect(written).toEqual(["9f3a.1", "9f3a.100"]);
});

test.each(["load", "save"] as const)(
  "I3: a store whose %s fails ends the subscription with the reason",
  async (broken) => {
    const { client, server } = await start();
    const memory = memoryStore();
    const store: CursorStore = { ...memory, [broken]: () => Promise.reject(new Error("the disk is full")) };
    const failed = new Promise<unknown>((resolve) => {
      client.subscribe({}, { from: "9f3a.1", store, key: "orders", onError: resolve });
    });
    if (broken === "save") {
      const connection = await server.connection();
      await connection.greet();
      const sub = await connection.accept();
      connection.send(ev(sub.i, 1, 9, [5, 9]));
    }
    const error = await within("the error of the store", failed);
    expect(isMillraceError(error, "unavailable")).toBe(true);
    expect(String(error)).toMatch(/"orders" failed: Error: the disk is full/);
  },
);

test("a stored cursor that is none ends the subscription instead of beginning elsewhere", async () => {
  const { client } = await start();
  const path = await folder();
  await writeFile(join(path, "orders.cursor"), "half a curs");
  const watch = client.watch({}, { from: "start", store: fileStore(path), key: "orders" });
  await expect(within("the error", watch.next())).rejects.toThrow(/stored cursor "orders" failed/);
});

test("a store without a key is refused at once", async () => {
  const { client } = await start();
  expect(() => client.watch({}, { store: memoryStore() })).toThrow(/needs a key/);
});

test("a window is acknowledged at its half, after handling", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.0", window: 4, batch: { max: 10, ms: 5 }, min: 3 });
  const connection = await server.connection();
  await connection.greet();
  const sub = await connection.accept();
  expect(sub).toMatchObject({ window: 4, batch: { max: 10, ms: 5 }, min: 3 });
  connection.send(ev(sub.i, 0, 9, [2, 3, 5, 9]));
  for (let taken = 0; taken < 3; taken += 1) await within("an item", watch.next());
  // Half a window was taken.
  expect(await connection.expect("ack")).toEqual({ t: "ack", i: sub.i, s: 2 });
  // The server waits: what is handled is acknowledged, though half a window is not full; the third is in hand.
  connection.send({ t: "behind", i: sub.i, s: 9, head: 20, why: "window" });
  expect(await connection.expect("ack")).toEqual({ t: "ack", i: sub.i, s: 3 });
  await within("an item", watch.next());
  expect(await connection.expect("ack")).toEqual({ t: "ack", i: sub.i, s: 5 });
  const next = watch.next();
  expect(await connection.expect("ack")).toEqual({ t: "ack", i: sub.i, s: 9 });
  connection.send(ev(sub.i, 9, 12, [12]));
  expect((await within("an item", next)).value?.sequence).toBe(12);
});
