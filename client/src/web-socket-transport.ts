import { MillraceError, streamSubprotocol } from "@millrace/schemas";
import { parseServerFrame } from "./server-frame.ts";
import type { Transport, TransportListener } from "./transport.ts";
import type { WebSocketConstructor, WebSocketLike } from "./web-socket.ts";

/** Browsers refuse a longer close reason (123 bytes) by throwing. */
const closeReasonMax = 100;

/** `millrace.v1` over a WebSocket: one text message is one frame. */
export function openWebSocketTransport(
  url: string,
  WebSocket: WebSocketConstructor,
  listener: TransportListener,
): Transport {
  let over = false;
  let socketError = "";
  let socket: WebSocketLike;
  try {
    socket = new WebSocket(url, streamSubprotocol);
  } catch (cause) {
    const message = `Opening a WebSocket to ${url} is not possible: ${String(cause)}`;
    // Not within this call: the connection does not hold the transport yet.
    queueMicrotask(() => {
      if (!over) listener.failed(new MillraceError("invalid_request", message, { cause }));
    });
    return {
      send() {},
      close() {
        over = true;
      },
    };
  }
  const whenOpen = (react: () => void): void => {
    if (!over) react();
  };
  socket.addEventListener("open", () =>
    whenOpen(() => {
      if (socket.protocol === streamSubprotocol) {
        listener.opened();
        return;
      }
      const error = new MillraceError(
        "subprotocol_missing",
        `${url} accepted the WebSocket without the subprotocol ${streamSubprotocol} ` +
          `(it chose ${JSON.stringify(socket.protocol)}). Is this the address of a Millrace stream (/v1/stream)?`,
        { details: { expected: streamSubprotocol, actual: socket.protocol } },
      );
      listener.failed(error);
    }),
  );
  socket.addEventListener("message", ({ data }) =>
    whenOpen(() => {
      const frame = parseServerFrame(data);
      if (frame === "unknown") return;
      if (frame === "malformed") listener.malformed(typeof data === "string" ? data : typeof data);
      else listener.frame(frame);
    }),
  );
  // The close event follows and decides; only Node's WebSockets say here what went wrong.
  socket.addEventListener("error", (event) => {
    if ("message" in event) socketError = String(event.message);
  });
  socket.addEventListener("close", ({ code, reason }) =>
    whenOpen(() => {
      over = true;
      listener.closed(code, reason === "" ? socketError : reason);
    }),
  );
  return {
    send(frame) {
      socket.send(JSON.stringify(frame));
    },
    close(code, reason) {
      over = true;
      socket.close(code, reason.slice(0, closeReasonMax));
    },
  };
}
