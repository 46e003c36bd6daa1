import { expect, test } from "vitest";
import {
  assertGroup,
  parseFleetKey,
  parseFleetSession,
  parseShardHolders,
  sessionKey,
  shardKey,
  type FleetSession,
} from "./fleet.ts";

const session: FleetSession = {
  session: "01J0000000000000000000000A",
  group: "orders",
  host: "web-1",
  pid: 42,
  place: "boot/pid",
  startedAt: "2026-01-01T00:00:00.000Z",
  draining: false,
  joined: 0,
  workflows: [{ type: "order", version: "2" }],
};

test("keys give back what they were made of; others are none", () => {
  expect(parseFleetKey(sessionKey("a"))).toEqual({ kind: "session", session: "a" });
  expect(parseFleetKey(shardKey("orders", 63))).toEqual({ kind: "shard", group: "orders", shard: 63 });
  for (const other of [
    "",
    "session",
    "session.",
    "session.a.b",
    "shard.g",
    "shard.g.x",
    "shard.g.1.2",
    "x.y",
  ])
    expect(parseFleetKey(other), other).toBeNull();
});

test("values give back what was written; text of another shape is none", () => {
  expect(parseFleetSession(JSON.stringify(session))).toEqual(session);
  const holders = { holders: [{ session: "a", lanes: ["order@2"] }] };
  expect(parseShardHolders(JSON.stringify(holders))).toEqual(holders);
  for (const other of ["", "null", "{}", '{"holders":3}', "[]"]) {
    expect(parseFleetSession(other)).toBeNull();
    expect(parseShardHolders(other)).toBeNull();
  }
});

test("a group is a token of a key", () => {
  expect(() => assertGroup("orders-2")).not.toThrow();
  for (const wrong of ["", "a.b", "a b", "x".repeat(65)])
    expect(() => assertGroup(wrong), wrong).toThrow(expect.objectContaining({ code: "invalid_id" }));
});
