/**
 * A server with a bug, made from the true one: a proxy that speaks the protocol on both sides and changes frames on
 * their way. HTTP goes to the true server.
 */
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { Duplex } from "node:stream";
import { WebSocket, WebSocketServer } from "ws";
import type { Frame } from "./frame.ts";
import type { Target } from "./kit.ts";

export interface MutantSession {
  /** What the client gets for a frame of the server. */
  readonly down?: (frame: Frame) => readonly Frame[];
  /** What the server gets for a frame of the client. */
  readonly up?: (frame: Readonly<Record<string, unknown>>) => readonly object[];
}

export interface Mutant {
  readonly name: string;
  /** One connection's. */
  session(): MutantSession;
}

export interface MutantProxy extends Target {
  close(): Promise<void>;
}

export async function startMutant(target: Target, mutant: Mutant): Promise<MutantProxy> {
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: ([first = ""]) => first });
  const server = createServer();
  server.on("upgrade", (incoming, socket, head) =>
    join(sockets, target, mutant.session(), incoming, socket, head),
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("The proxy has no port.");
  return {
    url: `ws://127.0.0.1:${address.port}`,
    http: target.http,
    async close() {
      for (const client of sockets.clients) client.terminate();
      await closed(server);
    },
  };
}

async function closed(server: Server): Promise<void> {
  const done = new Promise((resolve) => {
    server.close(resolve);
  });
  server.closeAllConnections();
  await done;
}

function join(
  sockets: WebSocketServer,
  target: Target,
  session: MutantSession,
  incoming: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): void {
  const offered = incoming.headers["sec-websocket-protocol"];
  const far = new WebSocket(`${target.url}${incoming.url ?? "/"}`, offered?.split(/, */) ?? [], {
    maxPayload: 4 * 1_048_576,
  });
  socket.on("error", () => far.terminate());
  far.on("unexpected-response", (_request, answer) => {
    const lines = Object.entries(answer.headers).map(([name, value]) => `${name}: ${String(value)}\r\n`);
    socket.write(`HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}\r\n${lines.join("")}\r\n`);
    answer.pipe(socket);
  });
  far.on("error", () => socket.destroy());
  far.once("open", () => {
    sockets.handleUpgrade(incoming, socket, head, (near) => {
      near.on("message", (data: Buffer, isBinary) => {
        for (const each of changed(data, isBinary, session.up)) far.send(each, { binary: isBinary });
      });
      far.on("message", (data: Buffer, isBinary) => {
        for (const each of changed(data, isBinary, session.down)) near.send(each, { binary: isBinary });
      });
      near.on("close", () => far.terminate());
      near.on("error", () => far.terminate());
      far.on("close", (code, reason) => {
        if (code >= 4000 || code === 1000) near.close(code, reason);
        else near.terminate();
      });
    });
  });
}

/** Frames changed; what is no frame goes through as it is. */
function changed<T>(
  data: Buffer,
  isBinary: boolean,
  change: ((frame: T) => readonly object[]) | undefined,
): readonly (Buffer | string)[] {
  if (isBinary || change === undefined) return [data];
  let frame: unknown;
  try {
    frame = JSON.parse(data.toString());
  } catch {
    // Sent to see what the server says to what is no JSON.
    return [data];
  }
  if (typeof frame !== "object" || frame === null || !("t" in frame)) return [data];
  return change(frame as T).map((each) => JSON.stringify(each));
}
