import { MillraceError } from "@millrace/schemas";

/** The part of a WebSocket that the client uses: the browser's, Node's (22 and up) and the `ws` package's fit. */
export interface WebSocketLike {
  readonly protocol: string;
  send(data: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open", listener: () => void): void;
  addEventListener(type: "message", listener: (event: { readonly data: unknown }) => void): void;
  addEventListener(
    type: "close",
    listener: (event: { readonly code: number; readonly reason: string }) => void,
  ): void;
  addEventListener(type: "error", listener: (event: object) => void): void;
}

export type WebSocketConstructor = new (url: string, protocols: string) => WebSocketLike;

/** The given constructor, else the global one; `undefined` where there is none (Node 20). */
export function findWebSocket(given: WebSocketConstructor | undefined): WebSocketConstructor | undefined {
  return given ?? (globalThis as { readonly WebSocket?: WebSocketConstructor }).WebSocket;
}

/**
 * The address of the stream: `http` becomes `ws`, and an address without a path gets `/v1/stream`. A relative
 * address is taken from the page's. `invalid_request` for anything else.
 */
export function streamUrl(url: string): string {
  const page = (globalThis as { readonly location?: { readonly href?: string } }).location?.href;
  let parsed: URL;
  try {
    parsed = new URL(url, page);
  } catch (cause) {
    throw new MillraceError(
      "invalid_request",
      `createClient: ${JSON.stringify(url)} is no URL. Expected e.g. "ws://127.0.0.1:8001".`,
      { cause },
    );
  }
  parsed.protocol = parsed.protocol.replace(/^http/, "ws");
  if (parsed.protocol !== "ws:" && parsed.protocol !== "wss:") {
    throw new MillraceError(
      "invalid_request",
      `createClient: ${JSON.stringify(url)} has the scheme ${parsed.protocol} Expected ws, wss, http or https.`,
    );
  }
  parsed.hash = "";
  if (parsed.pathname === "/") parsed.pathname = "/v1/stream";
  return parsed.href;
}
