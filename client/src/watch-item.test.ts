import { expectTypeOf, test } from "vitest";
import type { WebSocket as WsWebSocket } from "ws";
import type {
  Client,
  EventItem,
  RestartItem,
  SnapshotItem,
  StateItem,
  WebSocketConstructor,
} from "./index.ts";

declare const client: Client;

/** Only for the compiler: `watch` yields what its options say, without a cast. */
export const watches = (cursor: string | undefined) => ({
  events: client.watch({}),
  resumed: client.watch({}, { from: cursor ?? "start" }),
  rows: client.watch({}, { shape: "state" }),
  snapshot: client.watch({}, { from: "snapshot", shape: "state" }),
  restarted: client.watch({}, { from: "start", onGone: "restart-from-snapshot" }),
});

type ItemOf<Name extends keyof ReturnType<typeof watches>> =
  ReturnType<typeof watches>[Name] extends AsyncIterable<infer Item> ? Item : never;

test("the options of a watch give the type of its items", () => {
  expectTypeOf<ItemOf<"events">>().toEqualTypeOf<EventItem>();
  expectTypeOf<ItemOf<"resumed">>().toEqualTypeOf<EventItem>();
  expectTypeOf<ItemOf<"rows">>().toEqualTypeOf<StateItem>();
  expectTypeOf<ItemOf<"snapshot">>().toEqualTypeOf<StateItem | SnapshotItem>();
  expectTypeOf<ItemOf<"restarted">>().toEqualTypeOf<EventItem | RestartItem | SnapshotItem>();
});

test("an event's data follows from its type", () => {
  type Completed = Extract<EventItem, { type: "StepCompleted" }>;
  expectTypeOf<Completed["data"]["attempt"]>().toEqualTypeOf<number>();
  expectTypeOf<Completed["cursor"]>().toEqualTypeOf<string>();
});

test("the WebSockets of browsers and of the ws package fit", () => {
  expectTypeOf<typeof globalThis.WebSocket>().toExtend<WebSocketConstructor>();
  expectTypeOf<typeof WsWebSocket>().toExtend<WebSocketConstructor>();
});
