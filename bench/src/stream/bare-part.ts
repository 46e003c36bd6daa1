/**
 * Child process: what uWebSockets.js alone costs. It hears of each event over one WebSocket and sends one prepared
 * frame to each socket of the run: no log, no cursors, no accounts. The measure for our own server.
 */
import { loadUws } from "@millrace/stream-server";
import { serveParent, usage } from "./part.ts";

interface Data {
  run: number;
}

interface BareSocket {
  send(payload: Buffer, isBinary: boolean): number;
}

const frameBytes = Number(process.argv[2]);
const payload = Buffer.alloc(frameBytes, "x");
const uws = await loadUws();
const runs: Set<BareSocket>[] = [];
const shared = { maxBackpressure: 16 * 1_048_576, idleTimeout: 60, sendPingsAutomatically: true } as const;
let port = 0;

const app = uws.App();
app
  .ws<Data>("/v1/stream", {
    ...shared,
    upgrade(res, req, context) {
      res.upgrade(
        { run: -1 },
        req.getHeader("sec-websocket-key"),
        "millrace.v1",
        req.getHeader("sec-websocket-extensions"),
        context,
      );
    },
    message(ws, message) {
      const frame = JSON.parse(Buffer.from(message).toString()) as {
        readonly t: string;
        readonly filter?: { readonly workflow: readonly string[] };
      };
      if (frame.t !== "sub") return;
      const run = Number(frame.filter?.workflow[0]?.split("-").at(-1));
      ws.getUserData().run = run;
      (runs[run] ??= new Set()).add(ws);
      ws.send('{"t":"live","i":1,"s":0}', false);
    },
    close(ws) {
      runs[ws.getUserData().run]?.delete(ws);
    },
  })
  .ws("/publish", {
    ...shared,
    message(_ws, message) {
      for (const ws of runs[Number(Buffer.from(message).toString())] ?? []) ws.send(payload, false);
    },
  });
await new Promise<void>((resolve, reject) => {
  app.listen("127.0.0.1", 0, 0, (socket) => {
    if (socket === false) reject(new Error("The bare server found no port."));
    else {
      port = uws.us_socket_local_port(socket);
      resolve();
    }
  });
});

serveParent({ port: () => port, usage }, () => {
  app.close();
});
