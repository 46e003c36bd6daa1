/** Runs with sealed and offloaded payloads, whatever the log is: over the memory twin and over a real broker. */
import type { EventLog } from "@millrace/event-log";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { connect, type ConnectOptions } from "../../connect.ts";
import { defineWorkflow } from "../../definition.ts";
import { silentLogger } from "../../logger.ts";
import type { Millrace } from "../../millrace.ts";
import { aesGcmCodec } from "../aes-gcm-codec.ts";
import type { EncodedPayload } from "../codec.ts";
import { collectGarbage } from "../collect-garbage.ts";

export interface PayloadsHarness {
  /** Another connection to the log of `namespace`, without payload options. */
  open(namespace: string): Promise<EventLog>;
  stop(): Promise<void>;
}

const secret = "4111 1111 1111 1111";
const oldCodec = aesGcmCodec({ keys: { old: Buffer.alloc(32, 1) }, current: "old" });
const newCodec = aesGcmCodec({
  keys: { old: Buffer.alloc(32, 1), new: Buffer.alloc(32, 2) },
  current: "new",
});
const sealed = { payloads: { codec: oldCodec } };
/** What stands in the log for something else, as the user's own data. */
const lookalike = { $millrace: { value: { $millrace: { codec: "aes-gcm", key: "old", data: "AAAA" } } } };

const child = defineWorkflow({ type: "child" }, async (ctx, input: unknown) =>
  ctx.step("echo", () => ({ child: input })),
);
const family = defineWorkflow({ type: "family" }, async (ctx, input: { card: unknown }) => {
  const stepped = await ctx.step("step", () => ({ stepped: input.card }));
  const signalled = await ctx.waitForSignal("go");
  const grown = await ctx.child(child, { given: input.card });
  return { stepped, signalled, grown };
});

export function describeEnginePayloads(name: string, createHarness: () => Promise<PayloadsHarness>): void {
  describe(`payloads in the engine: ${name}`, () => {
    let harness: PayloadsHarness;
    let spaces = 0;
    const open: Millrace[] = [];
    beforeAll(async () => {
      harness = await createHarness();
    });
    afterEach(async () => {
      await Promise.all(open.splice(0).map((connection) => connection.close()));
    });
    afterAll(() => harness.stop());

    const space = (): string => `p${++spaces}`;
    async function connected(namespace: string, options: ConnectOptions = {}): Promise<Millrace> {
      const connection = await connect({ log: await harness.open(namespace), ...options });
      open.push(connection);
      return connection;
    }
    async function storedText(namespace: string, ...ids: string[]): Promise<string> {
      const log = await harness.open(namespace);
      const histories = await Promise.all(ids.map((id) => log.load(id)));
      return histories.flatMap((history) => history.map(({ body }) => body)).join("\n");
    }

    test.for([
      ["sealed", sealed],
      ["sealed and offloaded", { payloads: { codec: oldCodec, offloadBytes: 1 } }],
      ["offloaded", { payloads: { offloadBytes: 1 } }],
      ["plain", {}],
    ] as const)(
      "%s, an input, an output, a signal and a child's payloads come through every replay",
      async ([how, options]) => {
        for (const card of [secret, lookalike]) {
          const namespace = space();
          const worker = await connected(namespace, options);
          const client = await connected(namespace, options);
          // Everything is rebuilt from the log after each commit, and no run stays in memory.
          await worker.worker({ workflows: [family, child], replayAlways: true, runsMax: 1 });
          const handle = await client.start(family, { card }, { id: "f" });
          await handle.signal("go", { signal: card });
          expect(await handle.result()).toEqual({
            stepped: { stepped: card },
            signalled: { signal: card },
            grown: { child: { given: card } },
          });
          const text = await storedText(namespace, "f", "f-child-1");
          expect(text.includes(secret)).toBe(how === "plain" && card === secret);
          expect(text.match(/"\$millrace":\{"(?:codec|blob)"/g)?.length ?? 0).toBeGreaterThanOrEqual(
            how === "plain" ? 0 : 8,
          );
        }
      },
    );

    test("a worker with the old key dies, one with the rotated key takes over; new payloads have the new key", async () => {
      const namespace = space();
      const first = await connected(namespace, sealed);
      const client = await connected(namespace, sealed);
      let reached = (): void => undefined;
      const inStep = new Promise<void>((resolve) => (reached = resolve));
      const two = (end: () => unknown) =>
        defineWorkflow({ type: "two" }, async (ctx, input: { card: string }) => {
          const a = await ctx.step("a", () => `${input.card}a`);
          return ctx.step("b", () => end() ?? `${a}b`);
        });
      const worker = await first.worker({
        workflows: [two(() => (reached(), new Promise(() => undefined)))],
      });
      const handle = await client.start(
        two(() => undefined),
        { card: secret },
        { id: "r" },
      );
      await inStep;
      await worker.drain({ deadlineMs: 0 });
      const second = await connected(namespace, { payloads: { codec: newCodec } });
      await second.worker({ workflows: [two(() => undefined)] });
      // The client's key is the old one: what the new worker sealed is not for it.
      await expect(handle.result()).rejects.toMatchObject({
        code: "payload_sealed",
        details: { key: "new" },
      });
      expect(await second.handle("r").result()).toBe(`${secret}ab`);
      const keys = [...(await storedText(namespace, "r")).matchAll(/"key":"(\w+)"/g)].map(([, key]) => key);
      expect(keys).toEqual(["old", "old", "new", "new"]);
    });

    test("the same start again is the same run, also when its input is sealed; without the key nobody can tell", async () => {
      const namespace = space();
      const client = await connected(namespace, sealed);
      const again = await connected(namespace, { payloads: { codec: newCodec } });
      const keyless = await connected(namespace);
      const start = (by: Millrace, input: unknown) =>
        by.startByType("order", input, { id: "o", driver: "external" });
      const first = await start(client, { card: secret });
      expect(await start(again, { card: secret })).toMatchObject({
        created: false,
        sequence: first.sequence,
      });
      await expect(start(again, { card: "another" })).rejects.toMatchObject({
        code: "workflow_exists",
        details: { difference: "input" },
      });
      await expect(start(keyless, { card: secret })).rejects.toMatchObject({ code: "payload_sealed" });
    });

    test("a driver's outputs are sealed; without keys it may go on, and is given the stored form", async () => {
      const namespace = space();
      const client = await connected(namespace, sealed);
      const run = await client.drive("permit", "d", { input: { card: secret } });
      expect(await run.step("check", () => ({ found: secret }))).toEqual({ found: secret });
      const again = await client.drive("permit", "d", { input: { card: secret } });
      expect(await again.step("check", () => expect.fail("it is recorded"))).toEqual({ found: secret });
      const keyless = await connected(namespace);
      expect(await keyless.driver.begin("d", "check")).toMatchObject({
        outcome: "completed",
        output: { $millrace: { codec: "aes-gcm", key: "old" } },
      });
      const begun = await keyless.driver.begin("d", "decide");
      await keyless.driver.completeStep("d", "decide", "token" in begun ? begun.token : "", "plain");
      expect(await client.driver.begin("d", "decide")).toMatchObject({ output: "plain" });
      await keyless.handle("d").terminate();
      expect(await storedText(namespace, "d")).not.toContain(secret);
    });

    test("a worker without the key leaves the run stuck with the reason, and one with it goes on", async () => {
      const namespace = space();
      const client = await connected(namespace, sealed);
      const handle = await client.start(family, { card: secret }, { id: "k" });
      const wrong = await connected(namespace, {});
      const keyless = await wrong.worker({ workflows: [family, child] });
      await expect
        .poll(async () => (await client.log.last("k"))?.events.at(-1), { timeout: 20_000 })
        .toMatchObject({
          type: "WorkflowTurnFailed",
          data: { error: { code: "payload_sealed", message: expect.stringContaining("aes-gcm") as string } },
        });
      await keyless.drain();
      await client.worker({ workflows: [family, child] });
      await handle.signal("go", null);
      expect(await handle.result()).toMatchObject({ stepped: { stepped: secret } });
    });

    test.for([
      ["sealed", sealed],
      ["sealed and offloaded", { payloads: { codec: oldCodec, offloadBytes: 1 } }],
      ["offloaded", { payloads: { offloadBytes: 1 } }],
      ["plain", {}],
    ] as const)(
      "%s, a task's input, heartbeats and output come through, and no blob is made for its message",
      async ([how, options]) => {
        for (const card of [secret, lookalike]) {
          const namespace = space();
          const owner = await connected(namespace, options);
          const elsewhere = await connected(namespace, options);
          const tasked = defineWorkflow({ type: "tasked" }, async (ctx, input: unknown) => {
            const good = await ctx.task("charge", input, {
              queue: "q",
              retry: { maxAttempts: 2, initialDelayMs: 1 },
            });
            const bad = await ctx
              .task("refuse", input, { queue: "q", retry: { maxAttempts: 1 } })
              .catch((error: unknown) => (error as Error).name);
            return { good, bad };
          });
          await owner.worker({ workflows: [tasked], replayAlways: true });
          await elsewhere.worker({
            tasks: {
              charge: async (task) => {
                if (task.attempt === 1) {
                  task.heartbeat({ saw: card });
                  // The run's owner has nothing to do with it, so only the store can tell that it was sent.
                  await vi.waitUntil(async () => (await task.lastDetails()) !== null, { timeout: 10_000 });
                  throw new Error("again");
                }
                return { input: task.input as unknown, details: await task.lastDetails() };
              },
              refuse: () => {
                throw new Error("no");
              },
            },
            queues: ["q"],
          });
          const handle = await owner.start(tasked, { card }, { id: "t" });
          expect(await handle.result()).toEqual({
            good: { input: { card }, details: { saw: card } },
            bad: "StepFailedError",
          });
          const raw = await harness.open(namespace);
          const letters = await raw.tasks.deadLetters("q", { limit: 10 });
          expect(letters).toHaveLength(1);
          const beat = await raw.tasks.lastBeat({ workflowId: "t", run: 1, name: "charge", occurrence: 1 });
          const seen = [
            await storedText(namespace, "t"),
            JSON.stringify(letters),
            JSON.stringify(beat),
          ].join();
          expect(seen.includes(secret)).toBe(!how.startsWith("sealed") && card === secret);
          const opened = await owner.log.tasks.deadLetters("q", { limit: 10 });
          expect(opened[0]?.task.input).toEqual({ card });
          // Every blob is one that the history refers to: none was made for a message.
          const report = await collectGarbage(owner.log, { now: Date.now() + 2 * 3_600_000, dryRun: true });
          expect(report.orphans).toBe(0);
          expect(report.referenced > 0).toBe(how.includes("offloaded"));
        }
      },
    );

    test("a task worker without the key calls nothing and gives the task back to one that has it", async () => {
      const namespace = space();
      const owner = await connected(namespace, sealed);
      let gaveBack = (): void => undefined;
      const givenBack = new Promise<void>((resolve) => (gaveBack = resolve));
      const warn = (_fields: object, message: string): void => {
        if (message.includes('sealed with codec "aes-gcm"')) gaveBack();
      };
      const keyless = await connected(namespace, { logger: { ...silentLogger, warn } });
      const tasked = defineWorkflow({ type: "tasked" }, (ctx) =>
        ctx.task("charge", { card: secret }, { queue: "q", retry: { maxAttempts: 1 } }),
      );
      await owner.worker({ workflows: [tasked] });
      let calls = 0;
      const without = await keyless.worker({ tasks: { charge: () => ++calls }, queues: ["q"] });
      const handle = await owner.start(tasked, null, { id: "t" });
      await givenBack;
      await without.drain();
      await owner.worker({ tasks: { charge: ({ input }) => input as unknown }, queues: ["q"] });
      expect(await handle.result()).toEqual({ card: secret });
      expect(calls).toBe(0);
    });

    test("an operator without keys resets and forks a sealed run, and its blobs go along", async () => {
      const namespace = space();
      const client = await connected(namespace, { payloads: { codec: oldCodec, offloadBytes: 1 } });
      const keyless = await connected(namespace);
      await client.worker({ workflows: [family, child], replayAlways: true });
      const handle = await client.start(family, { card: secret }, { id: "f" });
      await handle.signal("go", { signal: secret });
      const output = await handle.result();
      await keyless.handle("f").fork({ id: "g", step: "step" });
      await client.handle("g").signal("go", { signal: secret });
      expect(await client.handle("g").result()).toEqual(output);
      await keyless.handle("f").reset({ step: "step" });
      await expect
        .poll(async () => (await client.log.last("f"))?.condition, { timeout: 20_000 })
        .toBe("closed");
      expect(await client.handle("f").result()).toEqual(output);
      const log = await harness.open(namespace);
      const owners = (await log.load("g")).flatMap(({ body }) => [...body.matchAll(/"blob":"(\w+)\//g)]);
      expect(new Set(owners.map(([, owner]) => owner))).toEqual(new Set(["g"]));
      expect(await storedText(namespace, "f", "g")).not.toContain(secret);
    });

    test("a child of another process tells its parent's what it gave, sealed and offloaded in between", async () => {
      for (const card of [secret, lookalike]) {
        const namespace = space();
        const options = { payloads: { codec: oldCodec, offloadBytes: 1 } };
        const [parents, children, client] = [
          await connected(namespace, options),
          await connected(namespace, options),
          await connected(namespace, options),
        ];
        // Both stay in memory: the parent learns of the child from its tail, not by loading.
        await parents.worker({ workflows: [family] });
        await children.worker({ workflows: [child] });
        const handle = await client.start(family, { card }, { id: "f" });
        await handle.signal("go", { signal: card });
        expect(await handle.result()).toMatchObject({ grown: { child: { given: card } } });
        expect(await storedText(namespace, "f", "f-child-1")).not.toContain(secret);
      }
    });

    test("a signal, a cancel and a repeated start do not read the payloads of the history", async () => {
      const namespace = space();
      let opened = 0;
      const counting = { ...oldCodec, decode: (given: EncodedPayload) => (opened++, oldCodec.decode(given)) };
      const client = await connected(namespace, sealed);
      await client.worker({ workflows: [family, child] });
      await client.start(family, { card: secret }, { id: "f" });
      await expect.poll(async () => (await client.log.load("f")).length, { timeout: 20_000 }).toBe(2);
      const other = await connected(namespace, { payloads: { codec: counting } });
      await other.handle("f").signal("unasked", { card: secret });
      await other.handle("f").cancel();
      expect(opened).toBe(0);
      await other.start(family, { card: secret }, { id: "f" });
      expect(opened).toBe(1);
    });

    test("queries and updates are sealed on their way to the owner and back, also on a closed run", async () => {
      const namespace = space();
      const asked: string[] = [];
      const log = await harness.open(namespace);
      const ask: EventLog["ask"] = async (topic, question, options) => {
        const answer = await log.ask(topic, question, options);
        asked.push(question, answer);
        return answer;
      };
      // Bound by hand: the log's own methods must keep their object.
      const spied = new Proxy(log, {
        get(target, key) {
          const value: unknown = key === "ask" ? ask : Reflect.get(target, key);
          return typeof value === "function" ? (value as () => unknown).bind(target) : value;
        },
      });
      const client = await connected(namespace, { ...sealed, log: spied });
      const owner = await connected(namespace, sealed);
      const asking = defineWorkflow({ type: "asking" }, async (ctx) => {
        let card: unknown = null;
        ctx.onQuery("card", (input: unknown) => ({ card, input }));
        ctx.onUpdate("set", (next: unknown) => ({ before: card, now: (card = next) }));
        return ctx.waitForSignal("end");
      });
      await owner.worker({ workflows: [asking] });
      const handle = await client.start(asking, null, { id: "q" });
      expect(await handle.update("set", secret)).toEqual({ before: null, now: secret });
      expect(await handle.query("card", lookalike)).toEqual({ card: secret, input: lookalike });
      await handle.signal("end", null);
      await handle.result();
      expect(await handle.query("card", secret)).toEqual({ card: secret, input: secret });
      expect(asked).toHaveLength(6);
      expect(asked.join("\n")).not.toContain(secret);
      expect(await storedText(namespace, "q")).not.toContain(secret);
      const keyless = await connected(namespace);
      await expect(keyless.handle("q").query("card")).rejects.toMatchObject({ code: "payload_sealed" });
    });

    test("a payload beyond a commit's size is offloaded on every way in, and garbage collection keeps it", async () => {
      const namespace = space();
      const large = "x".repeat(3_000_000);
      const client = await connected(namespace);
      await client.worker({ workflows: [family, child], replayAlways: true });
      const handle = await client.start(family, { card: large }, { id: "l" });
      await handle.signal("go", large);
      expect(await handle.result()).toEqual({
        stepped: { stepped: large },
        signalled: large,
        grown: { child: { given: large } },
      });
      expect((await storedText(namespace, "l", "l-child-1")).length).toBeLessThan(10_000);
      const { now } = { now: Date.now() + 2 * 3_600_000 };
      const report = await collectGarbage(client.log, { now });
      expect(report).toMatchObject({ young: 0, deleted: report.orphans });
      expect(report.referenced).toBeGreaterThanOrEqual(8);
      expect(await client.handle("l").result()).toMatchObject({ signalled: large });
    });

    test("a payload beyond the limit fails the step or the call that made it, with its name", async () => {
      const namespace = space();
      const client = await connected(namespace, { payloads: { bytesMax: 10_000 } });
      const big = defineWorkflow({ type: "big" }, (ctx) => ctx.step("grow", () => "x".repeat(20_000)));
      await client.worker({ workflows: [big] });
      const handle = await client.start(big, null, { id: "b" });
      await expect(handle.result()).rejects.toMatchObject({
        code: "workflow_failed",
        message: expect.stringContaining(
          "output of step grow has 20002 bytes of JSON, the limit is 10000",
        ) as string,
      });
      const over = "x".repeat(20_000);
      await expect(client.start(big, over as never)).rejects.toMatchObject({ code: "payload_too_large" });
      const open2 = await client.startByType("x", null, { driver: "external" });
      await expect(open2.handle.signal("go", over)).rejects.toMatchObject({
        code: "payload_too_large",
        details: { limit: 10_000, actual: 20_002 },
      });
    });
  });
}
