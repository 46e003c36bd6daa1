import fc from "fast-check";
import { isMillraceError } from "@millrace/schemas";
import { expect, test } from "vitest";
import {
  initialConnection,
  stepConnection,
  wakeAt,
  type ConnectionEffect,
  type ConnectionEvent,
  type ConnectionRules,
  type ConnectionState,
} from "./connection-machine.ts";

const rules: ConnectionRules = {
  backoffMinMs: 500,
  backoffMaxMs: 30_000,
  healthyMs: 10_000,
  failuresMax: Number.POSITIVE_INFINITY,
  connectTimeoutMs: 10_000,
  idleMs: 1_000,
};

/** The machine with a clock that the test moves. */
function machine(changed: Partial<ConnectionRules> = {}) {
  const own = { ...rules, ...changed };
  let state: ConnectionState = initialConnection;
  let now = 1_000_000;
  return {
    get state() {
      return state;
    },
    get now() {
      return now;
    },
    step(event: ConnectionEvent, random = 0.5): readonly ConnectionEffect[] {
      const result = stepConnection(state, event, { now, random, rules: own });
      state = result.state;
      return result.effects;
    },
    pass(ms: number): void {
      now += ms;
    },
    /** Ticks at the moment asked for; answers how long that took. */
    wake(random = 0.5): { afterMs: number; effects: readonly ConnectionEffect[] } {
      const at = wakeAt(state, own);
      if (at === null) throw new Error(`Nothing waits in ${state.at}.`);
      const afterMs = at - now;
      now = at;
      return { afterMs, effects: this.step({ type: "tick" }, random) };
    },
    connect(): void {
      this.step({ type: "want" });
      this.step({ type: "opened" });
      this.step({ type: "welcome", epoch: "9f3a", heartbeatMs: 20_000 });
    },
  };
}

const lost = (code = 1006): ConnectionEvent => ({ type: "lost", code, reason: "", told: null });

test("opens when wanted, greets, and attaches with the epoch", () => {
  const m = machine();
  expect(m.step({ type: "want" })).toEqual([{ do: "open" }]);
  expect(m.step({ type: "opened" })).toEqual([{ do: "hello" }]);
  expect(m.step({ type: "welcome", epoch: "9f3a", heartbeatMs: 20_000 })).toEqual([
    { do: "attached", epoch: "9f3a" },
  ]);
});

test("each failure doubles the wait; ten seconds of health make it begin anew", () => {
  const m = machine();
  m.step({ type: "want" });
  const waits: number[] = [];
  for (let failure = 0; failure < 8; failure += 1) {
    m.step(lost());
    waits.push(m.wake().afterMs);
  }
  expect(waits).toEqual([250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
  m.step({ type: "opened" });
  m.step({ type: "welcome", epoch: "9f3a", heartbeatMs: 20_000 });
  m.pass(9_999);
  m.step(lost());
  expect(m.wake().afterMs).toBe(15_000);
  m.connect();
  m.pass(10_000);
  m.step(lost());
  expect(m.wake().afterMs).toBe(250);
});

test.each([4500, 4501, 4999])("I2: close code %i fails, and nothing is tried again", (code) => {
  const m = machine();
  m.connect();
  expect(m.step(lost(code))).toMatchObject([{ do: "fail" }]);
  expect(wakeAt(m.state, rules)).toBeNull();
});

test.each([1000, 1006, 1011, 4000, 4007, 4499])("close code %i is followed by another attempt", (code) => {
  const m = machine();
  m.connect();
  expect(m.step(lost(code))).toMatchObject([{ do: "detached" }]);
  expect(m.wake().effects).toEqual([{ do: "open" }]);
});

test("I3: the bounds of bye win over the backoff, and over a nudge", () => {
  const m = machine();
  m.connect();
  const effects = m.step({ type: "bye", code: 4000, minMs: 500, maxMs: 15_000 }, 0.5);
  expect(effects).toMatchObject([{ do: "shut" }, { do: "detached", retryInMs: 7_750 }]);
  expect(m.step({ type: "nudge" })).toEqual([]);
  expect(m.wake().afterMs).toBe(500);
  expect(m.state.at).toBe("opening");
});

test("a nudge ends a backoff of our own at once", () => {
  const m = machine();
  m.connect();
  m.step(lost(), 0.99);
  expect(m.step({ type: "nudge" })).toEqual([{ do: "open" }]);
});

test("a nudge tests a live connection, which a dead peer does not survive", () => {
  const m = machine();
  m.connect();
  m.step({ type: "nudge" });
  m.pass(100);
  m.step({ type: "heard" });
  expect(m.step({ type: "nudge" })).toEqual([{ do: "ping" }]);
  const { afterMs, effects } = m.wake();
  expect(afterMs).toBe(5_000);
  expect(effects).toMatchObject([{ do: "shut", code: 4005 }, { do: "detached" }]);
});

test("I4: a late heartbeat marks as quiet, two missed ones end the connection with 4005", () => {
  const m = machine();
  m.connect();
  expect(m.wake()).toEqual({ afterMs: 25_000, effects: [] });
  expect(m.state).toMatchObject({ at: "ready", quiet: true });
  const { afterMs, effects } = m.wake();
  expect(afterMs).toBe(15_000);
  expect(effects).toMatchObject([{ do: "shut", code: 4005 }, { do: "detached" }]);
});

test("hearing anything ends the quiet", () => {
  const m = machine();
  m.connect();
  m.wake();
  m.step({ type: "heard" });
  expect(m.state).toMatchObject({ at: "ready", quiet: false, heardAt: m.now });
});

test.each(["opening", "greeting"])("I4: %s has a time limit", (at) => {
  const m = machine();
  m.step({ type: "want" });
  if (at === "greeting") m.step({ type: "opened" });
  expect(m.state.at).toBe(at);
  const { afterMs, effects } = m.wake();
  expect(afterMs).toBe(10_000);
  expect(effects).toMatchObject([{ do: "shut" }, { do: "detached" }]);
});

test("an unwanted connection is kept for a while, and closed unless it is wanted again", () => {
  const m = machine();
  m.connect();
  m.step({ type: "unwant" });
  m.pass(999);
  m.step({ type: "want" });
  m.step({ type: "unwant" });
  expect(m.wake()).toEqual({ afterMs: 1_000, effects: [{ do: "shut", code: 1000, reason: "idle" }] });
  expect(m.state.at).toBe("idle");
});

test("the limit of failures is named in the error", () => {
  const m = machine({ failuresMax: 2 });
  m.step({ type: "want" });
  m.step(lost());
  m.wake();
  const [effect] = m.step({ type: "lost", code: 1006, reason: "connect ECONNREFUSED", told: null });
  if (effect?.do !== "fail") throw new Error(`Expected fail, got ${JSON.stringify(effect)}.`);
  expect(isMillraceError(effect.error, "unavailable")).toBe(true);
  expect(effect.error.message).toContain("2 of at most 2 attempts failed");
  expect(effect.error.message).toContain("ECONNREFUSED");
});

const events: fc.Arbitrary<ConnectionEvent> = fc.oneof(
  fc.constantFrom<ConnectionEvent>(
    { type: "want" },
    { type: "unwant" },
    { type: "opened" },
    { type: "welcome", epoch: "9f3a", heartbeatMs: 20_000 },
    { type: "heard" },
    { type: "abandon", code: 4500, reason: "malformed frame" },
    { type: "refuse", error: new Error("no") },
    { type: "nudge" },
    { type: "tick" },
  ),
  fc.constantFrom(1006, 4000, 4005, 4501).map((code) => lost(code)),
  fc.record({
    type: fc.constant("bye" as const),
    code: fc.constantFrom(4000, 4503),
    minMs: fc.nat(1_000),
    maxMs: fc.nat(20_000),
  }),
  // Rare: nothing happens after it.
  fc.record({ type: fc.constant("close" as const) }),
);

test("I1, I4, I5: whatever comes, at most one socket is open, a wait has an end, and closed is closed", () => {
  const happenings = fc.array(
    fc.record({
      event: events,
      afterMs: fc.nat(30_000),
      random: fc.double({ min: 0, max: 0.99, noNaN: true }),
    }),
    { maxLength: 60 },
  );
  fc.assert(
    fc.property(happenings, (list) => {
      const m = machine();
      let open = 0;
      for (const { event, afterMs, random } of list) {
        m.pass(afterMs);
        const before = m.state;
        const hadSocket = before.at === "opening" || before.at === "greeting" || before.at === "ready";
        // A socket reports that it opened or closed only while there is one.
        if (event.type === "lost" && hadSocket) open -= 1;
        const effects = m.step(event, random);
        for (const effect of effects) {
          if (effect.do === "open") open += 1;
          if (effect.do === "shut" && open > 0) open -= 1;
        }
        expect(open).toBeLessThanOrEqual(1);
        const hasSocket = m.state.at === "opening" || m.state.at === "greeting" || m.state.at === "ready";
        expect(open).toBe(hasSocket ? 1 : 0);
        const revived = before.at === "closed" && (m.state !== before || effects.length > 0);
        expect(revived).toBe(false);
        expect(wakeAt(m.state, rules) === null).toBe(m.state.at === "idle" || m.state.at === "closed");
      }
    }),
  );
});
