import type { ClientFrame, ServerFrame } from "@millrace/schemas";

/** The ways to the stream, best first. */
export type TransportKind = "websocket" | "sse" | "poll";

/** Over HTTP nothing is said before the first subscription, so the epoch comes with it. */
export type ReceivedFrame =
  | Exclude<ServerFrame, { readonly t: "subbed" }>
  | (Extract<ServerFrame, { readonly t: "subbed" }> & { readonly e?: string });

/** What a transport tells its connection. After `closed`, `failed` or a `close` of ours it says nothing more. */
export interface TransportListener {
  /** `hello` may be sent. */
  opened(): void;
  frame(frame: ReceivedFrame): void;
  /** What came cannot be read, so the chain may be broken. */
  malformed(shown: string): void;
  /** `code`: a close code of the protocol, or 1006 for a network's failure. */
  closed(code: number, reason: string): void;
  /** No other attempt can help. */
  failed(error: Error): void;
}

/** One way to the stream, open: frames in both directions, in order, until it ends. */
export interface Transport {
  send(frame: ClientFrame): void;
  close(code: number, reason: string): void;
}
