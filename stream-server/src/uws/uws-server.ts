/**
 * The uWebSockets.js adapter: one App that serves HTTP and both WebSocket endpoints.
 *
 * U1 A request is copied before the first await; a response is never touched after abort or end.
 * U2 A WebSocket is never touched after its close event.
 * U3 Nothing is published to topics: that loses messages under back-pressure. Each socket is sent to by itself.
 */
import { createServer } from "node:net";
import { assertWorkflowId, limits, MillraceError, streamSubprotocol } from "@millrace/schemas";
import type {
  HttpRequest as NativeRequest,
  HttpResponse,
  us_listen_socket,
  us_socket_context_t,
  WebSocket,
} from "uWebSockets.js";
import { Connection, type Socket } from "../connection.ts";
import type { Payload } from "../core/subscription.ts";
import { problemAnswer } from "../http/problem.ts";
import { sequenceParam } from "../http/parse-body.ts";
import type { Answered } from "../http/router.ts";
import type { HttpRequest } from "../http/message.ts";
import type { StreamHub } from "../stream-hub.ts";
import { StreamSession } from "../stream-session.ts";
import { UpdatesSession } from "../updates-session.ts";
import { closeReason } from "./close-reason.ts";
import { listenExclusively, listenShared, type Uws } from "./load-uws.ts";
import { Exchange, readRequest } from "./uws-http.ts";

export interface UwsServerOptions {
  readonly uws: Uws;
  readonly hub: StreamHub;
  readonly route: (request: HttpRequest) => Promise<Answered>;
  readonly host: string;
  readonly port: number;
  readonly sharePort: boolean;
}

export interface UwsServer {
  readonly port: number;
  /** Takes no more connections; those that are open stay. */
  stopListening(): void;
  /** Closes everything at once. */
  close(): void;
}

/** Never reached in practice: a connection over `highBytes` is fed no more. A socket that does is closed. */
const maxBackpressure = 16 * 1_048_576;
/** Seconds without a byte from the client, pings of ours included in what must be answered. */
const idleTimeout = 60;
/** Larger frames cut the connection; those between this and our own limit are answered with 4513. */
const maxPayloadLength = 4 * limits.clientFrameBytes;

interface StreamData {
  session?: StreamSession;
  socket?: UwsSocket;
}
interface UpdatesData {
  readonly workflowId: string;
  readonly from: number | null;
  session?: UpdatesSession;
  socket?: UwsSocket;
}

class UwsSocket implements Socket {
  readonly #ws: WebSocket<unknown>;
  #open = true;

  constructor(ws: WebSocket<unknown>) {
    this.#ws = ws;
  }

  send(payload: Payload): boolean {
    return !this.#open || this.#ws.send(payload, false) !== 2;
  }

  bufferedBytes(): number {
    return this.#open ? this.#ws.getBufferedAmount() : 0;
  }

  ping(): void {
    if (this.#open) this.#ws.ping();
  }

  end(code: number, reason: string): void {
    if (this.#open) this.#ws.end(code, closeReason(reason));
  }

  closed(): void {
    this.#open = false;
  }
}

/** Somebody else may take a free port between finding it and listening on it. */
const freePortAttempts = 5;

/** Listens. `port_in_use` when the port is taken. */
export async function listenUws({
  uws,
  hub,
  route,
  host,
  port,
  sharePort,
}: UwsServerOptions): Promise<UwsServer> {
  const app = uws.App();
  const shared = { maxBackpressure, idleTimeout, maxPayloadLength, sendPingsAutomatically: true } as const;
  const countPong = (session: StreamSession | UpdatesSession | undefined) => {
    const ms = session?.connection.pong(Date.now()) ?? null;
    if (ms !== null) hub.metrics.pingRoundTrip.observe(Math.max(0, ms) / 1_000);
  };
  const countClose = (code: number) => hub.metrics.closes.inc({ code: String(code) });

  app.ws<StreamData>("/v1/stream", {
    ...shared,
    upgrade(res, req, context) {
      const offered = req.getHeader("sec-websocket-protocol");
      if (!offered.split(",").some((each) => each.trim() === streamSubprotocol)) {
        refuse(
          res,
          new MillraceError(
            "subprotocol_missing",
            `WebSocket refused: it offers ${offered === "" ? "no subprotocol" : JSON.stringify(offered.slice(0, 120))}, expected ` +
              `"${streamSubprotocol}". Pass it as the second argument of new WebSocket(url, "${streamSubprotocol}").`,
          ),
        );
        return;
      }
      const full = refusalOf(hub);
      if (full !== null) {
        refuse(res, full);
        return;
      }
      upgrade<StreamData>(res, req, context, {}, streamSubprotocol);
    },
    open(ws) {
      const data = ws.getUserData();
      const now = Date.now();
      data.socket = new UwsSocket(ws);
      data.session = new StreamSession(hub, new Connection(data.socket, now), now);
    },
    message(ws, message, isBinary) {
      ws.getUserData().session?.receive(
        isBinary ? null : Buffer.from(message).toString(),
        message.byteLength,
      );
    },
    pong(ws) {
      countPong(ws.getUserData().session);
    },
    drain(ws) {
      ws.getUserData().session?.pump();
    },
    close(ws, code) {
      countClose(code);
      const { socket, session } = ws.getUserData();
      socket?.closed();
      session?.closed();
    },
  });

  app.ws<UpdatesData>("/api/workflows/:id/updates", {
    ...shared,
    upgrade(res, req, context) {
      try {
        const workflowId = decodeURIComponent(req.getParameter(0));
        assertWorkflowId(workflowId);
        const full = refusalOf(hub);
        if (full !== null) throw full;
        const from = sequenceParam(new URLSearchParams(req.getQuery()), "from") ?? null;
        const offered = req.getHeader("sec-websocket-protocol").split(",")[0]?.trim() ?? "";
        upgrade<UpdatesData>(res, req, context, { workflowId, from }, offered);
      } catch (error) {
        const known =
          error instanceof URIError
            ? new MillraceError("invalid_id", "The workflow id is not valid URL encoding.")
            : error;
        refuse(res, known);
      }
    },
    open(ws) {
      const data = ws.getUserData();
      const now = Date.now();
      data.socket = new UwsSocket(ws);
      data.session = new UpdatesSession(hub, new Connection(data.socket, now), now);
      data.session.start(data.workflowId, data.from);
    },
    // Plain clients have nothing to say: what they send is taken as a sign of life.
    pong(ws) {
      countPong(ws.getUserData().session);
    },
    drain(ws) {
      ws.getUserData().session?.pump();
    },
    close(ws, code) {
      countClose(code);
      const { socket, session } = ws.getUserData();
      socket?.closed();
      session?.closed();
    },
  });

  app.any("/*", (res, req) => {
    const exchange = new Exchange(res);
    const request = readRequest(res, req, exchange);
    const finish = ({ answer, route: path, failure }: Answered) => {
      if (failure !== undefined)
        hub.logger.error({ err: failure, method: request.method, route: path }, "A request failed");
      hub.metrics.requests.inc({ method: request.method, route: path, status: String(answer.status) });
      exchange.answer(answer, request.method !== "HEAD");
    };
    route(request).then(finish, (error: unknown) =>
      finish({ answer: problemAnswer(error), route: "unknown", failure: error }),
    );
  });

  const listening = await listen(app, host, port, sharePort ? listenShared : listenExclusively);
  let accepting = true;
  return {
    port: uws.us_socket_local_port(listening),
    stopListening() {
      if (!accepting) return;
      accepting = false;
      uws.us_listen_socket_close(listening);
    },
    close() {
      accepting = false;
      app.close();
    },
  };
}

async function listen(
  app: ReturnType<Uws["App"]>,
  host: string,
  port: number,
  options: number,
): Promise<us_listen_socket> {
  const attempts = port === 0 ? freePortAttempts : 1;
  for (let attempt = 1; attempt <= attempts; attempt++) {
    // Given port 0, µWS leaves SO_REUSEADDR off: after a kill its connections then keep the port for a minute.
    const chosen = port === 0 ? await findFreePort(host) : port;
    const listening = await new Promise<us_listen_socket | false>((resolve) => {
      app.listen(host, chosen, options, resolve);
    });
    if (listening !== false) return listening;
  }
  throw new MillraceError(
    "port_in_use",
    `Cannot listen on ${host}:${port}: the port is taken, or the address is not of this machine. ` +
      "Stop the other server, or choose another port (--port, MILLRACE_PORT; 0 takes a free one).",
    { details: { host, port } },
  );
}

/** 0 when the address cannot be listened on: the caller's own attempt then says so. */
async function findFreePort(host: string): Promise<number> {
  return await new Promise((resolve) => {
    const probe = createServer();
    probe.on("error", () => {
      resolve(0);
    });
    probe.listen(0, host, () => {
      const address = probe.address();
      probe.close(() => {
        resolve(address !== null && typeof address === "object" ? address.port : 0);
      });
    });
  });
}

function upgrade<Data>(
  res: HttpResponse,
  req: NativeRequest,
  context: us_socket_context_t,
  data: Data,
  subprotocol: string,
): void {
  res.upgrade(
    data,
    req.getHeader("sec-websocket-key"),
    subprotocol,
    req.getHeader("sec-websocket-extensions"),
    context,
  );
}

/** Why no more connections are taken; null when they are. */
function refusalOf(hub: StreamHub): MillraceError | null {
  const { sessions, settings, draining } = hub;
  if (draining) return new MillraceError("draining", "This server is going away. Connect again.");
  if (sessions.size < settings.connectionsMax) {
    if (hub.takesConnection()) return null;
    return new MillraceError(
      "overloaded",
      `This server takes ${settings.connectionsPerSecond} new connections a second, and more came. Connect again in some seconds, or to another one.`,
      { details: { limit: settings.connectionsPerSecond } },
    );
  }
  return new MillraceError(
    "overloaded",
    `This server has ${sessions.size} connections, the limit is ${settings.connectionsMax}. Connect again later, or to another one.`,
    { details: { limit: settings.connectionsMax, actual: sessions.size } },
  );
}

function refuse(res: HttpResponse, error: unknown): void {
  new Exchange(res).answer(problemAnswer(error));
}
