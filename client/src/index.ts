export {
  createClient,
  type BackoffOptions,
  type Client,
  type ClientOptions,
  type WatchItem,
  type WatchOptions,
} from "./create-client.ts";
export type { EventItem, RestartItem, SnapshotItem, StateItem, StreamItem } from "./items.ts";
export type { ClientLogger, Timer, Token } from "./stream-connection.ts";
export type { Subscribed, SubscribeOptions } from "./subscribe.ts";
export type { OnGone } from "./subscription-machine.ts";
export type { ClientStats, GapNotice, StreamStatus } from "./subscription.ts";
export type { CursorStore } from "./stores/cursor-store.ts";
export type { TransportKind } from "./transport.ts";
export type { Watch } from "./watch.ts";
export type { WebSocketConstructor, WebSocketLike } from "./web-socket.ts";
export { isMillraceError, MillraceError, type ErrorCode, type Filter } from "@millrace/schemas";
