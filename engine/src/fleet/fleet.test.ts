/**
 * Several workers on one server in memory, with the time told by hand. Invariants O1 to O3 of `shard-ownership.ts`,
 * W3 and W4 of `worker.ts`.
 */
import { createMemoryLog, createMemoryServer, type EventLog, type MemoryServer } from "@millrace/event-log";
import { isMillraceError, MillraceError, shardOf } from "@millrace/schemas";
import { afterEach, describe, expect, test } from "vitest";
import { connect } from "../connect.ts";
import { defineWorkflow } from "../definition.ts";
import type { Clock } from "../due-timers.ts";
import { silentLogger } from "../logger.ts";
import type { Millrace } from "../millrace.ts";
import type { Worker } from "../worker.ts";
import { rankSessions } from "./core/rendezvous.ts";

const leaseMs = 10_000;
const until = { timeout: 10_000, interval: 2 };

/** Turns of the event loop in which everything that can go on without time does so. */
async function turns(count = 30): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

class ManualClock implements Clock {
  #nowMs = 1_000_000;
  readonly #pending = new Set<{ readonly at: number; readonly callback: () => void }>();

  now = (): number => this.#nowMs;

  wake = (delayMs: number, callback: () => void): (() => void) => {
    const timer = { at: this.#nowMs + delayMs, callback };
    this.#pending.add(timer);
    return () => void this.#pending.delete(timer);
  };

  /** Goes on by `ms`, one timer after the other. */
  async advance(ms: number): Promise<void> {
    const end = this.#nowMs + ms;
    await turns();
    for (;;) {
      const [next] = [...this.#pending].filter(({ at }) => at <= end).toSorted((a, b) => a.at - b.at);
      if (next === undefined) break;
      this.#pending.delete(next);
      this.#nowMs = Math.max(this.#nowMs, next.at);
      next.callback();
      await turns(5);
    }
    this.#nowMs = end;
    await turns();
  }
}

/** A way to the server that can be cut, or held up, for one connection alone. */
class Line {
  /** Its leases cannot be written: the broker is away for it. */
  cut = false;
  refused = 0;
  /** The process stands still: no timer of its lease fires, it sees nothing of the fleet and of the log. */
  #frozen = false;
  readonly #late: (() => void)[] = [];
  readonly server: MemoryServer;

  constructor(server: MemoryServer) {
    const refuseWhenCut = <T>(value: T): T => {
      if (this.cut) throw new MillraceError("unavailable", "cut by the test");
      return value;
    };
    const keys: MemoryServer["keys"] = (namespace) => {
      const real = server.keys(namespace);
      return new Proxy(real, {
        get: (target, name) => {
          const value: unknown = Reflect.get(target, name, target);
          if (typeof value !== "function") return value;
          if (name === "onChange")
            return (listener: () => void) =>
              real.onChange(() => {
                if (this.#frozen) this.#late.push(listener);
                else listener();
              });
          return (...given: unknown[]) => refuseWhenCut(value).apply(target, given) as unknown;
        },
      });
    };
    const wake: MemoryServer["wake"] = (delayMs, callback) =>
      server.wake(delayMs, () => {
        if (this.#frozen) this.#late.push(callback);
        else callback();
      });
    this.server = Object.assign(Object.create(server) as MemoryServer, { keys, wake });
  }

  /** A connection over this line. Its tail stands still with it, its appends do not; those refused are counted. */
  log(): EventLog {
    const log = createMemoryLog({ server: this.server });
    return {
      ...log,
      follow: (options) =>
        log.follow({
          ...options,
          onCommit: (commit, pending) => {
            if (this.#frozen) this.#late.push(() => options.onCommit(commit, pending));
            else options.onCommit(commit, pending);
          },
        }),
      append: (request) =>
        log.append(request).catch((error: unknown) => {
          if (isMillraceError(error, "conflict")) this.refused++;
          throw error;
        }),
    };
  }

  freeze(): void {
    this.#frozen = true;
  }

  thaw(): void {
    this.#frozen = false;
    for (const callback of this.#late.splice(0)) callback();
  }
}

function gate(): { readonly opened: Promise<void>; readonly open: () => void } {
  let release = (): void => undefined;
  const opened = new Promise<void>((resolve) => (release = resolve));
  return { opened, open: release };
}

const open: { readonly millrace: Millrace; readonly lines: Line[] }[] = [];

afterEach(async () => {
  for (const { millrace, lines } of open.splice(0)) {
    for (const line of lines) line.thaw();
    // Not awaited: a drain that waits for time waits for a clock that does not move any more.
    millrace.close().catch((error: unknown) => expect.fail(String(error)));
  }
  await turns();
});

function fleet() {
  const clock = new ManualClock();
  const server = createMemoryServer({ clock: clock.now, wake: clock.wake });
  const warnings: string[] = [];
  const logger = { ...silentLogger, warn: (_fields: object, message: string) => void warnings.push(message) };
  const lines: Line[] = [];

  async function connected(log?: EventLog): Promise<Millrace> {
    const millrace = await connect({ log: log ?? createMemoryLog({ server }), clock, logger });
    open.push({ millrace, lines });
    return millrace;
  }
  async function throughLine(): Promise<{ readonly line: Line; readonly millrace: Millrace }> {
    const line = new Line(server);
    lines.push(line);
    return { line, millrace: await connected(line.log()) };
  }
  return { clock, server, warnings, connected, throughLine };
}

/** Ids of which each shard has some. */
const ids = Array.from({ length: 200 }, (_, index) => `run-${index}`);

/** A workflow of two steps, and who ran which step of which run, in order. */
function twoSteps(calls: string[], name: string, between?: (id: string) => Promise<void> | undefined) {
  return defineWorkflow({ type: "two" }, async (ctx, input: null) => {
    await ctx.step("a", async () => {
      calls.push(`${name} ${ctx.workflowId} a`);
      await between?.(ctx.workflowId);
    });
    await ctx.step("b", () => void calls.push(`${name} ${ctx.workflowId} b`));
    return input;
  });
}

function shardsOf(workers: readonly Worker[]): number[] {
  return workers.map((worker) => worker.stats().shards);
}

/** Every shard is with the session that should have it. */
async function atRest(client: Millrace): Promise<boolean> {
  const { sessions } = await client.fleet();
  const names = sessions.map(({ session }) => session);
  return Array.from({ length: 64 }, (_, shard) => shard).every((shard) => {
    const holders = sessions.filter(({ shards }) => shards.includes(shard)).map(({ session }) => session);
    return holders.length === 1 && holders[0] === rankSessions(names, shard)[0];
  });
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

describe("a fleet", () => {
  test("shares the shards: each run is executed by one worker, each step once, and all work", async () => {
    const { connected } = fleet();
    const calls: string[] = [];
    const names = ["x", "y", "z"];
    const workers: Worker[] = [];
    for (const name of names)
      workers.push(await (await connected()).worker({ workflows: [twoSteps(calls, name)] }));
    const client = await connected();
    await expect.poll(() => atRest(client), until).toBe(true);
    expect(Math.min(...shardsOf(workers))).toBeGreaterThan(5);
    const results = ids.map(async (id) => (await client.start(twoSteps([], ""), null, { id })).result());
    await Promise.all(results);
    const steps = calls.map((call) => call.slice(2));
    expect(steps.toSorted()).toEqual(ids.flatMap((id) => [`${id} a`, `${id} b`]).toSorted());
    for (const name of names) {
      const mine = calls.filter((call) => call.startsWith(name)).map((call) => call.split(" ")[1] ?? "");
      expect(mine.length, name).toBeGreaterThan(20);
      for (const other of names.filter((each) => each !== name)) {
        const theirs = calls.filter((call) => call.startsWith(other)).map((call) => call.split(" ")[1] ?? "");
        expect(theirs.filter((id) => mine.includes(id))).toEqual([]);
      }
    }
    expect(sum(shardsOf(workers))).toBe(64);
    const told = await client.fleet();
    expect(told.groups).toMatchObject([{ sessions: 3, shardsHeld: 64, shardsTotal: 64 }]);
    expect(told.sessions.map(({ shards }) => shards.length)).toEqual(shardsOf(workers));
    expect(told.hosted).toMatchObject([{ type: "two", version: "1", sessions: 3 }]);
  });

  test("O2: a worker that joins gets its shards once their running steps are recorded; no step runs twice", async () => {
    const { connected } = fleet();
    const calls: string[] = [];
    const held = gate();
    const first = await (
      await connected()
    ).worker({
      workflows: [twoSteps(calls, "first", () => held.opened)],
      concurrency: 1_000,
    });
    const client = await connected();
    const results = ids.map(async (id) => (await client.start(twoSteps([], ""), null, { id })).result());
    await expect.poll(() => calls.length, until).toBe(ids.length);
    const joining = (await connected()).worker({
      workflows: [twoSteps(calls, "second")],
      concurrency: 1_000,
    });
    const second = await joining;
    // Every shard has a step that runs: what is to be the second's waits for it.
    await turns();
    expect(shardsOf([second])).toEqual([0]);
    expect(first.stats().shards).toBeLessThan(64);
    held.open();
    await Promise.all(results);
    await expect.poll(() => sum(shardsOf([first, second])), until).toBe(64);
    expect(second.stats().shards).toBeGreaterThan(10);
    const steps = calls.map((call) => call.split(" ").slice(1).join(" "));
    expect(steps.toSorted()).toEqual(ids.flatMap((id) => [`${id} a`, `${id} b`]).toSorted());
    expect(calls.filter((call) => call.startsWith("second")).length).toBeGreaterThan(20);
    expect(calls.filter((call) => call.startsWith("second")).every((call) => call.endsWith(" b"))).toBe(true);
  });

  test("W3: a drained worker hands all over without a step run twice, and leaves nothing in the fleet", async () => {
    const { connected } = fleet();
    const calls: string[] = [];
    const held = gate();
    const first = await (
      await connected()
    ).worker({
      workflows: [twoSteps(calls, "first", () => held.opened)],
      concurrency: 1_000,
    });
    const client = await connected();
    const results = ids.map(async (id) => (await client.start(twoSteps([], ""), null, { id })).result());
    await expect.poll(() => calls.length, until).toBe(ids.length);
    const second = await (await connected()).worker({ workflows: [twoSteps(calls, "second")] });
    const drained = first.drain();
    await expect
      .poll(async () => (await client.fleet()).sessions.map(({ draining }) => draining), until)
      .toEqual([true, false]);
    held.open();
    await drained;
    await Promise.all(results);
    expect(shardsOf([first, second])).toEqual([0, 64]);
    const steps = calls.map((call) => call.split(" ").slice(1).join(" "));
    expect(steps.toSorted()).toEqual(ids.flatMap((id) => [`${id} a`, `${id} b`]).toSorted());
    expect((await client.fleet()).sessions.map(({ session }) => session)).toEqual([second.session]);
  });

  test("a worker that is gone without a word is replaced when its lease ends, not before", async () => {
    const { clock, server, connected } = fleet();
    const calls: string[] = [];
    const never = gate();
    const log = createMemoryLog({ server });
    const dead = await connected(log);
    await dead.worker({ workflows: [twoSteps(calls, "dead", () => never.opened)], leaseMs });
    const client = await connected();
    const handle = await client.start(twoSteps([], ""), null, { id: "run" });
    await expect.poll(() => calls, until).toEqual(["dead run a"]);
    // Its connection ends and nothing is given back, as with kill -9.
    await log.close();
    const heir = await (await connected()).worker({ workflows: [twoSteps(calls, "heir")], leaseMs });
    await clock.advance(leaseMs - 100);
    expect(calls).toEqual(["dead run a"]);
    await clock.advance(200);
    await handle.result();
    expect(calls).toEqual(["dead run a", "heir run a", "heir run b"]);
    const { shards, takeOvers, lastTakeOverMs } = heir.stats();
    expect({ shards, takeOvers, lastTakeOverMs }).toEqual({ shards: 64, takeOvers: 1, lastTakeOverMs: 0 });
  });
});

describe("a zombie", () => {
  /** A worker on a line of its own that holds all shards and runs a step, and one that waits for them. */
  async function zombieAndHeir() {
    const made = fleet();
    const calls: string[] = [];
    const signals: AbortSignal[] = [];
    const late = gate();
    const workflow = (name: string) =>
      defineWorkflow({ type: "long" }, (ctx) =>
        ctx.step("s", async ({ signal }) => {
          calls.push(name);
          if (name === "zombie") {
            signals.push(signal);
            await late.opened;
          }
          return name;
        }),
      );
    const { line, millrace } = await made.throughLine();
    const zombie = await millrace.worker({ workflows: [workflow("zombie")], leaseMs });
    const client = await made.connected();
    const handle = await client.start(workflow(""), null, { id: "run" });
    await expect.poll(() => calls, until).toEqual(["zombie"]);
    return { ...made, line, zombie, client, handle, calls, signals, late, workflow };
  }

  test("O3: a worker that cannot renew its lease stops its runs before another one takes them", async () => {
    const { clock, line, connected, zombie, handle, calls, signals, workflow, warnings } =
      await zombieAndHeir();
    line.cut = true;
    const heir = await (await connected()).worker({ workflows: [workflow("heir")], leaseMs });
    await clock.advance(leaseMs - 200);
    expect(signals[0]?.aborted).toBe(true);
    expect(zombie.stats()).toMatchObject({ runs: 0, shards: 0 });
    expect(calls).toEqual(["zombie"]);
    await clock.advance(400);
    expect(await handle.result()).toBe("heir");
    expect(warnings.some((message) => message.includes("is lost and its runs stop here"))).toBe(true);
    // It comes back as another session, and gets a part again.
    line.cut = false;
    await clock.advance(leaseMs);
    expect(zombie.stats().shards).toBeGreaterThan(10);
    expect(sum(shardsOf([zombie, heir]))).toBe(64);
  });

  test("a worker that stood still is fenced: its outcome comes too late, and it lets go as soon as it goes on", async () => {
    const { clock, line, connected, client, zombie, handle, calls, signals, late, workflow } =
      await zombieAndHeir();
    line.freeze();
    await (await connected()).worker({ workflows: [workflow("heir")], leaseMs });
    await clock.advance(leaseMs + 100);
    expect(calls).toEqual(["zombie", "heir"]);
    expect(await handle.result()).toBe("heir");
    // It does not know yet, and tries to record what it has.
    expect(zombie.stats()).toMatchObject({ shards: 64 });
    expect(signals[0]?.aborted).toBe(false);
    late.open();
    await expect.poll(() => line.refused, until).toBe(1);
    const events = (await client.log.load("run")).flatMap((commit) => commit.events);
    expect(events.map(({ type }) => type)).toEqual(["WorkflowStarted", "StepCompleted", "WorkflowCompleted"]);
    expect(events[1]).toMatchObject({ data: { output: "heir" } });
    line.thaw();
    await turns();
    expect(zombie.stats().shards).toBeLessThan(64);
    await expect.poll(() => atRest(client), until).toBe(true);
  });

  test("a worker whose types went to another group while it was away cannot go on, and says so", async () => {
    const { clock, connected, throughLine } = fleet();
    const failures: Error[] = [];
    const { line, millrace } = await throughLine();
    const workflows = [defineWorkflow({ type: "t" }, (ctx) => ctx.step("s", () => 1))];
    const zombie = await millrace.worker({ workflows, leaseMs, onFailed: (error) => failures.push(error) });
    line.cut = true;
    await clock.advance(leaseMs + 100);
    const heir = await (await connected()).worker({ workflows, leaseMs, group: "other" });
    line.cut = false;
    await clock.advance(3_000);
    expect(failures).toMatchObject([
      { code: "workflow_type_claimed", details: { type: "t", claimedBy: "other", session: heir.session } },
    ]);
    await clock.advance(3_000);
    expect([zombie.stats().shards, heir.stats().shards]).toEqual([0, 64]);
    const { sessions } = await (await connected()).fleet();
    expect(sessions.map(({ session }) => session)).toEqual([heir.session]);
  });

  test("a worker whose session somebody ended begins another one", async () => {
    const { server, zombie, client, signals, clock } = await zombieAndHeir();
    const key = `session.${zombie.session}`;
    const keys = server.keys("default");
    keys.remove(key, keys.entries.get(key)?.revision ?? 0);
    await expect.poll(() => signals[0]?.aborted, until).toBe(true);
    await clock.advance(2_000);
    await expect.poll(() => zombie.stats().shards, until).toBe(64);
    const { sessions } = await client.fleet();
    expect(sessions).toHaveLength(1);
    expect(sessions[0]?.session).not.toBe(zombie.session);
  });
});

describe("groups and types", () => {
  const typed = (type: string, version = "1") =>
    defineWorkflow({ type, version }, (ctx) => ctx.step("s", () => `${type}@${version}`));

  test("a type of another live group is refused at the start, naming both groups and the session", async () => {
    const { connected } = fleet();
    const first = await (await connected()).worker({ workflows: [typed("a"), typed("b")], group: "one" });
    const other = await connected();
    const refused = await other
      .worker({ workflows: [typed("b"), typed("c")], group: "two" })
      .catch((e: unknown) => e);
    expect(refused).toMatchObject({
      code: "workflow_type_claimed",
      details: { type: "b", group: "two", claimedBy: "one", session: first.session },
    });
    expect((refused as Error).message).toMatch(/same group, or stop the other ones first/);
    // It registered nothing and left nothing behind.
    expect(other.log.registeredType("c")).toBeNull();
    expect((await other.fleet()).sessions).toHaveLength(1);
    expect(first.stats().shards).toBe(64);
    await first.drain();
    await other.worker({ workflows: [typed("b"), typed("c")], group: "two" });
  });

  test("without a name, the set of types is the group: the same one is shared, one that overlaps is refused", async () => {
    const { connected } = fleet();
    await (await connected()).worker({ workflows: [typed("a"), typed("b")] });
    const same = await (await connected()).worker({ workflows: [typed("b", "2"), typed("a", "2")] });
    expect(same.stats().shards).toBe(64);
    await (await connected()).worker({ workflows: [typed("other")] });
    await expect((await connected()).worker({ workflows: [typed("a")] })).rejects.toMatchObject({
      code: "workflow_type_claimed",
    });
    await expect(
      (await connected()).worker({ workflows: [typed("z")], group: "not a token" }),
    ).rejects.toMatchObject({ code: "invalid_id" });
    await expect(
      (await connected()).worker({ workflows: [typed("z")], leaseMs: 1_500 }),
    ).rejects.toMatchObject({
      code: "invalid_request",
    });
  });

  test("W4: a deploy that adds a version and a type: new runs go at once to who hosts them, old ones are shared", async () => {
    const { connected, warnings } = fleet();
    const old = await (await connected()).worker({ workflows: [typed("a")], group: "g" });
    const client = await connected();
    const early = await Promise.all(
      ids.slice(0, 40).map((id) => client.startByType("a", null, { id, version: "2" })),
    );
    const waiting = await client.startByType("b", null, { id: "b", version: "1", allowUnregistered: true });
    await expect.poll(() => old.stats(), until).toMatchObject({ unhosted: 40, runs: 0 });
    expect(warnings).toHaveLength(40);
    expect((await client.fleet()).hosted.map(({ type, version }) => `${type}@${version}`)).toEqual(["a@1"]);
    const newer = await (
      await connected()
    ).worker({
      workflows: [typed("a"), typed("a", "2"), typed("b")],
      group: "g",
    });
    expect(await waiting.handle.result()).toBe("b@1");
    for (const { handle } of early) expect(await handle.result()).toBe("a@2");
    const later = ids.slice(40, 120).map(async (id, index) => {
      const version = index % 2 === 0 ? "1" : "2";
      const { handle } = await client.startByType("a", null, { id, version });
      expect(await handle.result()).toBe(`a@${version}`);
    });
    await Promise.all(later);
    await expect.poll(() => old.stats(), until).toMatchObject({ unhosted: 0, runs: 0 });
    expect(old.stats().shards).toBeLessThan(64);
    expect(newer.stats().shards).toBe(64);
    await newer.drain();
    await expect.poll(() => old.stats().shards, until).toBe(64);
  });

  test("a run that comes into a shard after it moved away is with the new owner only", async () => {
    const { connected } = fleet();
    const calls: string[] = [];
    const first = await (await connected()).worker({ workflows: [twoSteps(calls, "first")] });
    const second = await (await connected()).worker({ workflows: [twoSteps(calls, "second")] });
    const client = await connected();
    await expect.poll(() => atRest(client), until).toBe(true);
    const { sessions } = await client.fleet();
    for (const id of ids.slice(0, 30)) await (await client.start(twoSteps([], ""), null, { id })).result();
    for (const call of calls) {
      const [name, id = ""] = call.split(" ");
      const owner = sessions.find(({ shards }) => shards.includes(shardOf(id, 64)));
      expect(owner?.session).toBe(name === "first" ? first.session : second.session);
    }
  });
});
