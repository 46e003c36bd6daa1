import { MillraceError } from "@millrace/schemas";
import type { Timer } from "./stream-connection.ts";
import type { Transport, TransportKind, TransportListener } from "./transport.ts";
import { findWebSocket, type WebSocketConstructor } from "./web-socket.ts";
import { openWebSocketTransport } from "./web-socket-transport.ts";

interface TransportOptions {
  readonly WebSocket?: WebSocketConstructor;
  readonly fetch?: typeof globalThis.fetch;
  readonly transports?: readonly TransportKind[];
  readonly httpRequestsMax?: number;
}

interface Ways extends TransportOptions {
  /** `ws:` or `wss:`. */
  readonly url: string;
  readonly connectTimeoutMs: number;
  readonly now: () => number;
  readonly timer: Timer;
}

/** Only what the stream server speaks today: a client that fell back to HTTP would be refused there for good. */
const spoken: readonly TransportKind[] = ["websocket"];
const httpRequestsDefault = 4;

/** The wanted transports that this runtime has; `invalid_request` when that is none. */
export function usableTransports(options: TransportOptions): readonly TransportKind[] {
  const wanted = options.transports ?? spoken;
  const hasSocket = findWebSocket(options.WebSocket) !== undefined;
  const hasFetch = (options.fetch ?? globalThis.fetch) !== undefined;
  const usable = wanted.filter((kind) => (kind === "websocket" ? hasSocket : hasFetch));
  if (usable.length > 0) return usable;
  throw new MillraceError(
    "invalid_request",
    `createClient: there is no WebSocket here for ${wanted.join(", ")}. On Node 20 pass the one of "ws": ` +
      "createClient({ url, WebSocket }).",
    { details: { transports: wanted } },
  );
}

export function openTransport(kind: TransportKind, ways: Ways, listener: TransportListener): Transport {
  const WebSocket = findWebSocket(ways.WebSocket);
  if (kind === "websocket" && WebSocket !== undefined) {
    return openWebSocketTransport(ways.url, WebSocket, listener);
  }
  return openLater(kind === "poll" ? "poll" : "sse", ways, listener);
}

/** A page whose WebSocket works never loads this. Nothing is sent before `opened`, so nothing needs to be kept. */
function openLater(mode: "sse" | "poll", ways: Ways, listener: TransportListener): Transport {
  let inner: Transport | undefined;
  let over = false;
  import("./http/http-transport.ts").then(
    ({ openHttpTransport }) => {
      if (over) return;
      const { url, now, timer, connectTimeoutMs, httpRequestsMax } = ways;
      const fetch = ways.fetch ?? globalThis.fetch.bind(globalThis);
      const requestsMax = Math.max(1, Math.floor(httpRequestsMax ?? httpRequestsDefault));
      const address = url.replace(/^ws/, "http");
      const options = { mode, url: address, fetch, requestsMax, now, timer, connectTimeoutMs };
      inner = openHttpTransport(options, listener);
    },
    (error: unknown) => {
      if (!over) listener.closed(1006, `the code for ${mode} could not be loaded: ${String(error)}`);
    },
  );
  return {
    send(frame) {
      inner?.send(frame);
    },
    close(code, reason) {
      over = true;
      inner?.close(code, reason);
    },
  };
}
