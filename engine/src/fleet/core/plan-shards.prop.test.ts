/**
 * A fleet that lives in the memory of the test: sessions come, drain, go and change what they host, and each acts on
 * its plan, now and then on an old view. P1 to P3 of `plan-shards.ts`.
 */
import {
  laneOf,
  sessionKey,
  shardKey,
  type FleetSession,
  type HostedType,
  type ShardHolder,
} from "@millrace/schemas";
import fc from "fast-check";
import { expect, test } from "vitest";
import { FleetView } from "./fleet-view.ts";
import { planShards, type ShardPlan } from "./plan-shards.ts";

const group = "g";
const shardCount = 16;

const hostable: readonly HostedType[] = [
  { type: "a", version: "1" },
  { type: "a", version: "2" },
  { type: "b", version: "1" },
];

interface Change {
  readonly key: string;
  readonly value: string | null;
  readonly revision: number;
}

/** The broker's keys, and every change in order. */
class Keys {
  readonly changes: Change[] = [];
  readonly #values = new Map<string, { readonly value: string; readonly revision: number }>();

  revision(key: string): number {
    return this.#values.get(key)?.revision ?? 0;
  }

  value(key: string): string | null {
    return this.#values.get(key)?.value ?? null;
  }

  write(key: string, value: string | null, expected = this.revision(key)): boolean {
    if (expected !== this.revision(key)) return false;
    const revision = this.changes.length + 1;
    if (value === null) this.#values.delete(key);
    else this.#values.set(key, { value, revision });
    this.changes.push({ key, value, revision });
    return true;
  }
}

class Member {
  readonly held = new Map<number, Set<string>>();
  readonly view = new FleetView();
  readonly lanes: ReadonlySet<string>;
  draining = false;
  #read = 0;
  readonly #keys: Keys;
  readonly record: FleetSession;

  constructor(keys: Keys, session: string, workflows: readonly HostedType[]) {
    this.#keys = keys;
    this.lanes = new Set(workflows.map(laneOf));
    this.record = {
      session,
      group,
      host: "h",
      pid: 1,
      place: "p",
      startedAt: "2026-01-01T00:00:00.000Z",
      draining: false,
      joined: 0,
      workflows,
    };
    this.say();
  }

  say(): void {
    this.#keys.write(
      sessionKey(this.record.session),
      JSON.stringify({ ...this.record, draining: this.draining }),
    );
  }

  catchUp(): void {
    for (const change of this.#keys.changes.slice(this.#read)) this.view.apply(change);
    this.#read = this.#keys.changes.length;
  }

  plan(): ShardPlan {
    return planShards({
      view: this.view,
      session: this.record.session,
      group,
      shardCount,
      lanes: this.lanes,
      draining: this.draining,
      held: this.held,
      busy: new Set(),
    });
  }

  /** As `shard-ownership.ts` does it, with hand-overs that take no time. */
  act(): ShardPlan {
    const plan = this.plan();
    for (const { shard, lanes } of [...plan.lost, ...plan.handOvers]) {
      for (const lane of lanes) this.held.get(shard)?.delete(lane);
    }
    for (const { shard, expected, holders, gained } of plan.writes) {
      const key = shardKey(group, shard);
      if (!this.#keys.write(key, JSON.stringify({ holders }), expected)) continue;
      this.view.apply({ key, value: JSON.stringify({ holders }), revision: this.#keys.revision(key) });
      this.held.set(shard, new Set([...(this.held.get(shard) ?? []), ...gained]));
    }
    return plan;
  }
}

const action = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("come" as const),
      hosts: fc.subarray([0, 1, 2], { minLength: 1 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constantFrom("die" as const, "drain" as const),
      who: fc.nat(9),
      catchUp: fc.constant(false),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant("act" as const), who: fc.nat(9), catchUp: fc.boolean() }),
  },
);

function assertNeverTwice(members: readonly Member[], context: string): void {
  for (let shard = 0; shard < shardCount; shard++) {
    const owners = members.flatMap((member) => [...(member.held.get(shard) ?? [])]);
    expect(owners.toSorted(), `${context}, shard ${shard}`).toEqual([...new Set(owners)].toSorted());
  }
}

test("P1: no lane is held twice at any time, also by members that act on an old view; P2, P3: all comes to rest, with one holder each", () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
      const keys = new Keys();
      let members: Member[] = [];
      let count = 0;
      for (const step of actions) {
        const member = "who" in step ? members[step.who % Math.max(1, members.length)] : undefined;
        if (step.do === "come") {
          const workflows = step.hosts.flatMap((index) => hostable[index] ?? []);
          members.push(new Member(keys, `S${++count}`, workflows));
        } else if (member === undefined) continue;
        else if (step.do === "die") {
          keys.write(sessionKey(member.record.session), null);
          members = members.filter((other) => other !== member);
        } else if (step.do === "drain") {
          member.draining = true;
          member.say();
        } else {
          if (step.catchUp) member.catchUp();
          member.act();
        }
        assertNeverTwice(members, JSON.stringify(step));
      }
      let planned = 1;
      for (let round = 0; planned > 0; round++) {
        expect(round, "comes to rest").toBeLessThan(12);
        planned = 0;
        for (const member of members) {
          member.catchUp();
          const { writes, handOvers, lost } = member.act();
          planned += writes.length + handOvers.length + lost.length;
        }
        assertNeverTwice(members, `round ${round}`);
      }
      const hosted = new Set(members.filter(({ draining }) => !draining).flatMap(({ lanes }) => [...lanes]));
      for (let shard = 0; shard < shardCount; shard++) {
        const owned = members.flatMap((member) => [...(member.held.get(shard) ?? [])]);
        expect(owned.toSorted(), `shard ${shard}`).toEqual([...hosted].toSorted());
        const text = keys.value(shardKey(group, shard));
        const written = text === null ? [] : (JSON.parse(text) as { holders: ShardHolder[] }).holders;
        const alive = written.filter(({ session }) =>
          members.some(({ record }) => record.session === session),
        );
        expect(alive.flatMap(({ lanes }) => lanes).toSorted()).toEqual(owned.toSorted());
      }
    }),
    { numRuns: 300 },
  );
});

test("during a deploy each version is shared by those that host it, and only what must move moves", () => {
  const keys = new Keys();
  const old = ["S1", "S2"].map((name) => new Member(keys, name, [{ type: "a", version: "1" }]));
  const settle = (members: readonly Member[]): void => {
    for (let round = 0; round < 6; round++) {
      for (const member of members) {
        member.catchUp();
        member.act();
      }
    }
  };
  settle(old);
  const heldBefore = old.map(({ held }) => new Set(held.keys()));
  const newer = new Member(keys, "S3", [
    { type: "a", version: "1" },
    { type: "a", version: "2" },
  ]);
  settle([...old, newer]);
  const lanesOf = (member: Member, lane: string) =>
    [...member.held].filter(([, lanes]) => lanes.has(lane)).length;
  expect(lanesOf(newer, "a@2")).toBe(shardCount);
  const share = lanesOf(newer, "a@1");
  expect(share).toBeGreaterThan(0);
  expect(share).toBeLessThan(shardCount);
  for (const [index, member] of old.entries())
    for (const shard of member.held.keys()) expect(heldBefore[index]?.has(shard)).toBe(true);
  keys.write(sessionKey("S1"), null);
  keys.write(sessionKey("S2"), null);
  settle([newer]);
  expect(lanesOf(newer, "a@1")).toBe(shardCount);
});
