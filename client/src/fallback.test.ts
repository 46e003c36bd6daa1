/** Which transport is used when: WebSocket blocked, everything blocked, and back again. */
import { afterEach, expect, test } from "vitest";
// The code that a client loads when it needs it is here already.
import "./http/http-transport.ts";
import { createClient, type Client, type ClientOptions } from "./index.ts";
import { ManualTimer } from "./testing/manual-timer.ts";
import { modelFetch } from "./testing/model-http.ts";
import { ModelServer } from "./testing/model-server.ts";
import { SeededRandom } from "./testing/seeded-random.ts";
import {
  afterAttempt,
  chosenKind,
  initialChoice,
  probeFailed,
  probeWorked,
  proven,
} from "./transport-choice.ts";

const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
};

class World {
  readonly time = new ManualTimer();
  readonly server = new ModelServer(new SeededRandom(1));
  /** What the network between lets through. */
  readonly lets = { websocket: true, sse: true, poll: true };
  readonly attempts: string[] = [];
  readonly client: Client;
  readonly seen: number[] = [];

  constructor(options: Partial<ClientOptions> = {}) {
    const { server, time, lets, attempts } = this;
    const answer = modelFetch(server, new SeededRandom(1));
    const Real = server.WebSocket;
    const tell = (kind: keyof typeof lets): boolean => {
      attempts.push(kind);
      return lets[kind];
    };
    const Blockable = function (url: string, protocols: string) {
      const socket = new Real(url, protocols);
      if (!tell("websocket")) queueMicrotask(() => server.cut(server.open.at(-1) ?? never()));
      return socket;
    } as unknown as ClientOptions["WebSocket"] & object;
    this.client = createClient({
      url: "ws://model",
      WebSocket: Blockable,
      fetch: (input, init) => {
        // From a cursor an event stream begins without a poll.
        const kind = new Headers(init?.headers).get("accept") === "application/json" ? "poll" : "sse";
        return tell(kind) ? answer(input, init) : Promise.reject(new TypeError("blocked"));
      },
      now: () => time.now,
      random: () => 0.5,
      timer: time.timer,
      transports: ["websocket", "sse", "poll"],
      ...options,
    });
  }

  follow(): void {
    this.client.subscribe(
      {},
      {
        from: "9f3a.0",
        onEvent: ({ sequence }) => {
          this.seen.push(sequence);
        },
        onError: (error) => {
          throw error;
        },
      },
    );
  }

  async turns(count: number, passMs: number): Promise<void> {
    for (let turn = 0; turn < count; turn += 1) {
      this.time.pass(passMs);
      await settle();
      for (const socket of this.server.open) while (this.server.advance(socket));
      await settle();
    }
  }
}

const never = (): never => {
  throw new Error("There is no socket.");
};

let world: World | undefined;
afterEach(() => world?.client.close());

const sequences = (server: ModelServer): number[] => server.log.map(([sequence]) => sequence);

test("WebSocket works: nothing else is tried", async () => {
  world = new World();
  world.follow();
  world.server.publish("a", 2);
  await world.turns(5, 100);
  expect(world.client.transport).toBe("websocket");
  expect(world.seen).toEqual(sequences(world.server));
  expect(new Set(world.attempts)).toEqual(new Set(["websocket"]));
});

test("two WebSockets that fail fast lead to SSE; a WebSocket is tried beside it, and taken once it is welcomed", async () => {
  world = new World();
  const { lets, server, client, attempts } = world;
  lets.websocket = false;
  world.follow();
  server.publish("a", 1);
  await world.turns(20, 100);
  expect(client.transport).toBe("sse");
  expect(attempts.slice(0, 3)).toEqual(["websocket", "websocket", "sse"]);
  expect(world.seen).toEqual(sequences(server));

  // 10 s later, in vain; the stream goes on.
  await world.turns(110, 100);
  expect(attempts.filter((kind) => kind === "websocket")).toHaveLength(3);
  server.publish("a", 1);
  await world.turns(3, 10);
  expect(client.transport).toBe("sse");
  expect(world.seen).toEqual(sequences(server));

  // And again after five minutes: now it is let through.
  lets.websocket = true;
  for (let beat = 0; beat < 32; beat += 1) {
    for (const socket of server.open) server.heartbeat(socket);
    await world.turns(5, 2_000);
  }
  expect(client.transport).toBe("websocket");
  server.publish("a", 3);
  await world.turns(3, 10);
  expect(world.seen).toEqual(sequences(server));
  expect(client.stats).toMatchObject({ gaps: 0, duplicates: 0 });
});

test("SSE does not get through either: long poll", async () => {
  world = new World();
  world.lets.websocket = false;
  world.lets.sse = false;
  world.follow();
  world.server.publish("a", 1);
  await world.turns(60, 100);
  expect(world.client.transport).toBe("poll");
  world.server.publish("b", 2);
  await world.turns(3, 10);
  expect(world.seen).toEqual(sequences(world.server));
});

test("a pinned transport is never left", async () => {
  world = new World({ transports: ["websocket"] });
  world.lets.websocket = false;
  world.follow();
  await world.turns(100, 1_000);
  expect(new Set(world.attempts)).toEqual(new Set(["websocket"]));
  world.lets.websocket = true;
  world.server.publish("a", 1);
  await world.turns(40, 1_000);
  expect(world.seen).toEqual(sequences(world.server));
});

test("choice I1: what worked once is tried again as it is; I2: after the last comes the first", () => {
  let choice = initialChoice(["websocket", "sse", "poll"]);
  const kinds: string[] = [];
  for (let attempt = 0; attempt < 7; attempt += 1) {
    kinds.push(chosenKind(choice));
    choice = afterAttempt(choice, false);
  }
  expect(kinds).toEqual(["websocket", "websocket", "sse", "sse", "poll", "poll", "websocket"]);
  choice = afterAttempt(afterAttempt(initialChoice(["websocket", "sse"]), false), true);
  expect(chosenKind(choice)).toBe("websocket");
  expect(chosenKind(afterAttempt(choice, false))).toBe("websocket");
});

test("choice I3: soon, then every five minutes give or take a tenth, until it worked", () => {
  const fallen = proven(afterAttempt(afterAttempt(initialChoice(["websocket", "sse"]), false), false), 1_000);
  expect(fallen.probeAt).toBe(11_000);
  expect(probeFailed(fallen, 11_000, 0).probeAt).toBe(281_000);
  expect(probeFailed(fallen, 11_000, 1).probeAt).toBe(341_000);
  expect(probeWorked(fallen)).toMatchObject({ index: 0, probeAt: null });
  expect(proven(initialChoice(["websocket"]), 1_000).probeAt).toBeNull();
});
