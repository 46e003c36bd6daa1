import { afterEach, expect, test } from "vitest";
import { createClient } from "./index.ts";
import { ManualTimer } from "./testing/manual-timer.ts";
import { ModelServer } from "./testing/model-server.ts";
import { SeededRandom } from "./testing/seeded-random.ts";

const replaced: { readonly name: string; readonly before: PropertyDescriptor | undefined }[] = [];

function replaceGlobal(name: string, value: unknown): void {
  replaced.push({ name, before: Object.getOwnPropertyDescriptor(globalThis, name) });
  Object.defineProperty(globalThis, name, { value, configurable: true });
}

afterEach(() => {
  for (const { name, before } of replaced.splice(0).reverse()) {
    if (before === undefined) Reflect.deleteProperty(globalThis, name);
    else Object.defineProperty(globalThis, name, before);
  }
});

/** The part of a browser's page that the client listens to. */
function page(): { window: EventTarget; document: EventTarget & { visibilityState: string } } {
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  replaceGlobal("addEventListener", window.addEventListener.bind(window));
  replaceGlobal("removeEventListener", window.removeEventListener.bind(window));
  replaceGlobal("document", document);
  return { window, document };
}

function offline(): { client: ReturnType<typeof createClient>; server: ModelServer; time: ManualTimer } {
  const time = new ManualTimer();
  const server = new ModelServer(new SeededRandom(1));
  const { WebSocket } = server;
  const { timer } = time;
  const client = createClient({
    url: "ws://model",
    WebSocket,
    now: () => time.now,
    random: () => 0.9,
    timer,
  });
  client.watch({});
  const [socket] = server.open;
  if (socket === undefined) throw new Error("The watch should have opened a socket.");
  server.cut(socket);
  expect(server.open).toHaveLength(0);
  return { client, server, time };
}

test.each(["online", "visibilitychange"])("%s ends the backoff at once", (name) => {
  const { window, document } = page();
  const { client, server } = offline();
  (name === "online" ? window : document).dispatchEvent(new Event(name));
  expect(server.open).toHaveLength(1);
  client.close();
});

test("a page that is hidden does not", () => {
  const { document } = page();
  const { client, server, time } = offline();
  document.visibilityState = "hidden";
  document.dispatchEvent(new Event("visibilitychange"));
  expect(server.open).toHaveLength(0);
  time.pass(500);
  expect(server.open).toHaveLength(1);
  client.close();
});

test("a closed client listens no more", () => {
  const { window } = page();
  const { client, server } = offline();
  client.close();
  window.dispatchEvent(new Event("online"));
  expect(server.open).toHaveLength(0);
});
