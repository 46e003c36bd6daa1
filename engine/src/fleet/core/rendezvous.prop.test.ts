import fc from "fast-check";
import { expect, test } from "vitest";
import { newUlid } from "../../new-ulid.ts";
import { rankSessions } from "./rendezvous.ts";

const sessions = fc.uniqueArray(fc.stringMatching(/^[0-9A-Z]{4,26}$/), { minLength: 1, maxLength: 12 });
const shard = fc.nat(63);
const shards = Array.from({ length: 64 }, (_, index) => index);

test("every process comes to the same order, whatever the order in which it learnt of the sessions", () => {
  fc.assert(
    fc.property(sessions, shard, fc.infiniteStream(fc.double({ noNaN: true })), (names, at, random) => {
      const shuffled = names
        .map((name) => ({ name, key: random.next().value }))
        .toSorted((a, b) => a.key - b.key);
      expect(
        rankSessions(
          shuffled.map(({ name }) => name),
          at,
        ),
      ).toEqual(rankSessions(names, at));
    }),
  );
});

test("who comes takes only what it wins, who goes leaves only what it had: nothing else moves", () => {
  fc.assert(
    fc.property(sessions, fc.stringMatching(/^[0-9a-z]{5,26}$/), shard, (names, other, at) => {
      const without = rankSessions(names, at);
      const withOther = rankSessions([...names, other], at);
      expect(withOther.filter((name) => name !== other)).toEqual(without);
    }),
  );
});

test("64 shards are spread over sessions evenly enough", () => {
  for (const count of [2, 3, 5, 8]) {
    const most: number[] = [];
    for (let round = 0; round < 200; round++) {
      const names = Array.from({ length: count }, () => newUlid());
      const owned = new Map<string, number>(names.map((name) => [name, 0]));
      for (const at of shards) {
        const [best = ""] = rankSessions(names, at);
        owned.set(best, (owned.get(best) ?? 0) + 1);
      }
      most.push(Math.max(...owned.values()));
    }
    const mean = most.reduce((sum, each) => sum + each, 0) / most.length;
    // Of a fair random spread; ids that differ in a few characters must not be worse.
    expect(mean / (64 / count), `${count} sessions`).toBeLessThan(1.9);
    expect(Math.max(...most), `${count} sessions`).toBeLessThan(64);
  }
});
