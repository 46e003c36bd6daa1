import type { Filter } from "@millrace/schemas";
import { describe, expect, test } from "vitest";
// The code that a client loads when it needs it is here already: loading takes more than a turn.
import "./http/http-transport.ts";
import { createClient, type Client, type EventItem, type TransportKind, type Watch } from "./index.ts";
import { ManualTimer } from "./testing/manual-timer.ts";
import { modelFetch } from "./testing/model-http.ts";
import { ModelServer, type FrameFaults } from "./testing/model-server.ts";
import { SeededRandom } from "./testing/seeded-random.ts";

const schedules = 150;
const firstSeed = Number(process.env["MILLRACE_SEED"] ?? 1);
const seeds = Array.from({ length: schedules }, (_unused, index) => firstSeed + index);

const none: FrameFaults = { lose: 0, repeat: 0 };

/** Promise reactions of the client have run when this resolves. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A consumer that keeps its cursor with its events, takes as many as it is allowed to, and can crash. */
class Consumer {
  readonly filter: Filter;
  readonly #client: Client;
  readonly #bufferedItemsMax: number;
  #watch: Watch<EventItem>;
  #cursor: string | null = null;
  #allowed = 0;
  #permit: (() => void) | undefined;
  seen: string[] = [];

  constructor(client: Client, filter: Filter, bufferedItemsMax: number) {
    this.#client = client;
    this.filter = filter;
    this.#bufferedItemsMax = bufferedItemsMax;
    this.#watch = this.#begin();
  }

  get status(): string {
    return this.#watch.status;
  }

  allow(items: number): void {
    this.#allowed += items;
    this.#permit?.();
  }

  /** The process ends and comes back with the cursor that it stored; events past it are no longer there. */
  crash(): void {
    this.#watch.close();
    const sequence = Number(this.#cursor?.split(".")[1] ?? "0");
    this.seen = this.seen.filter((text) => Number(text.split(" ")[0]) <= sequence);
    this.#watch = this.#begin();
  }

  #begin(): Watch<EventItem> {
    const watch = this.#client.watch(this.filter, {
      from: this.#cursor ?? "start",
      bufferedItemsMax: this.#bufferedItemsMax,
    });
    this.#follow(watch).catch((error: unknown) => this.seen.push(String(error)));
    return watch;
  }

  async #follow(watch: Watch<EventItem>): Promise<void> {
    for await (const event of watch) {
      while (this.#allowed === 0 && watch === this.#watch) {
        await new Promise<void>((resolve) => {
          this.#permit = resolve;
        });
      }
      if (watch !== this.#watch) return;
      this.#allowed -= 1;
      const step = event.type === "StepStarted" ? event.data.name : event.type;
      this.seen.push(`${event.sequence} ${event.workflowId} ${step}`);
      this.#cursor = event.cursor;
    }
  }
}

async function simulate(seed: number, faults: FrameFaults, transport: TransportKind = "websocket") {
  const random = new SeededRandom(seed);
  const time = new ManualTimer();
  const server = new ModelServer(random);
  const client = createClient({
    url: "ws://model",
    WebSocket: server.WebSocket,
    fetch: modelFetch(server, random),
    transports: [transport],
    now: () => time.now,
    random: () => random.next(),
    timer: time.timer,
  });
  const consumers = [
    new Consumer(client, {}, 1_024),
    new Consumer(client, { workflow: ["a"] }, 4),
    new Consumer(client, { workflow: ["a", "b"], event: ["StepStarted"] }, 16),
    new Consumer(client, { workflow: ["a"] }, 8),
  ];
  const counts = { cuts: 0, crashes: 0, published: 0 };
  server.faults = faults;

  const pick = <Value>(values: readonly Value[]): Value | undefined => values[random.below(values.length)];
  for (let turn = 0; turn < 400; turn += 1) {
    const dice = random.next();
    const socket = pick(server.open);
    if (dice < 0.25) {
      server.publish(pick(["a", "b", "c"]) ?? "a", 1 + random.below(3));
      counts.published += 1;
    } else if (dice < 0.7) {
      if (socket !== undefined) server.advance(socket);
    } else if (dice < 0.85) pick(consumers)?.allow(1 + random.below(6));
    else if (dice < 0.9) time.pass(random.below(1_500));
    else if (dice < 0.93 && socket !== undefined) server.heartbeat(socket);
    else if (dice < 0.96 && socket !== undefined) {
      server.cut(socket, pick([1006, 4000, 4003, 4006]));
      counts.cuts += 1;
    } else if (dice < 0.97) {
      pick(consumers)?.crash();
      counts.crashes += 1;
    }
    // Not each turn: what happens between two reactions of the client must hold too.
    if (random.chance(0.5)) await settle();
  }

  // The network is whole again: everything must arrive, and end as live.
  server.faults = { lose: 0, repeat: 0 };
  const expected = consumers.map(({ filter }) =>
    server
      .matching(filter, 0, server.head)
      .map(
        ([sequence, , workflowId, , data]) => `${sequence} ${workflowId} ${(data as { name: string }).name}`,
      ),
  );
  const arrived = (): boolean =>
    consumers.every(
      ({ seen, status }, index) => status === "live" && seen.length >= (expected[index]?.length ?? 0),
    );
  for (let turn = 0; turn < 3_000 && !arrived(); turn += 1) {
    for (const consumer of consumers) consumer.allow(10);
    time.pass(100);
    for (const socket of server.open) {
      if (turn % 20 === 0) server.heartbeat(socket);
      while (server.advance(socket));
    }
    await settle();
  }
  await settle();
  const { stats } = client;
  const seen = consumers.map((consumer) => consumer.seen);
  client.close();
  return { seen, expected, stats, counts, server };
}

describe("a client against a model server", () => {
  test(`exactly once and in order over ${schedules} schedules of cuts, crashes and slow consumers`, async () => {
    const sums = { cuts: 0, crashes: 0, reconnects: 0, received: 0 };
    for (const seed of seeds) {
      const { seen, expected, stats, counts, server } = await simulate(seed, { lose: 0, repeat: 0 });
      const hint = `seed ${seed} (MILLRACE_SEED=${seed} repeats it)`;
      expect(seen, hint).toEqual(expected);
      expect(server.violations, hint).toEqual([]);
      // No fault, so no alarm.
      expect(stats, hint).toMatchObject({ gaps: 0, duplicates: 0 });
      sums.cuts += counts.cuts;
      sums.crashes += counts.crashes;
      sums.reconnects += stats.reconnects;
      sums.received += stats.received;
    }
    // Schedules without cuts and crashes would prove nothing.
    for (const [what, count] of Object.entries(sums)) expect(count, what).toBeGreaterThan(schedules);
  }, 60_000);

  test.each(["sse", "poll"] as const)(
    "the same over %s, in pieces cut anywhere",
    async (transport) => {
      const sums = { cuts: 0, crashes: 0, reconnects: 0, received: 0 };
      for (const seed of seeds.slice(0, 60)) {
        const { seen, expected, stats, counts, server } = await simulate(seed, none, transport);
        const hint = `${transport}, seed ${seed} (MILLRACE_SEED=${seed} repeats it)`;
        expect(seen, hint).toEqual(expected);
        expect(server.violations, hint).toEqual([]);
        expect(stats, hint).toMatchObject({ gaps: 0, duplicates: 0 });
        sums.cuts += counts.cuts;
        sums.crashes += counts.crashes;
        sums.reconnects += stats.reconnects;
        sums.received += stats.received;
      }
      for (const [what, count] of Object.entries(sums)) expect(count, what).toBeGreaterThan(60);
    },
    60_000,
  );

  test.each(["sse", "poll"] as const)(
    "frames lost over %s are noticed and come again",
    async (transport) => {
      let gaps = 0;
      for (const seed of seeds.slice(0, 40)) {
        const { seen, expected, stats } = await simulate(seed, { lose: 0.08, repeat: 0.08 }, transport);
        expect(seen, `${transport}, seed ${seed} (MILLRACE_SEED=${seed} repeats it)`).toEqual(expected);
        gaps += stats.gaps;
      }
      expect(gaps).toBeGreaterThan(8);
    },
    60_000,
  );

  test("lost and repeated frames: counted, reported, and still exactly once", async () => {
    const sums = { lost: 0, repeated: 0, gaps: 0, duplicates: 0 };
    for (const seed of seeds.slice(0, 100)) {
      const { seen, expected, stats, server } = await simulate(seed, { lose: 0.08, repeat: 0.08 });
      const hint = `seed ${seed} (MILLRACE_SEED=${seed} repeats it)`;
      expect(seen, hint).toEqual(expected);
      expect(server.violations, hint).toEqual([]);
      expect(server.reported, hint).toBe(stats.gaps);
      sums.lost += server.lost;
      sums.repeated += server.repeated;
      sums.gaps += stats.gaps;
      sums.duplicates += stats.duplicates;
    }
    for (const [what, count] of Object.entries(sums)) expect(count, what).toBeGreaterThan(50);
  }, 60_000);
});
