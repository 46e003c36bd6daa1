/**
 * Child process: many sockets that follow one run and measure from stored (the event's broker time) to received.
 * Every socket checks the chain; only a sample of them parses what it gets, since parsing 1,000 copies of one frame
 * would measure this process and not the server.
 */
import { WebSocket } from "ws";

const [url = "", countText = "0", workflowId = ""] = process.argv.slice(2);
const count = Number(countText);
const sampledEach = Math.max(1, Math.floor(count / 100));
const entryType = '"ProgressReported"';
const latenciesMs: number[] = [];
let received = 0;
let live = 0;

for (let index = 0; index < count; index++) {
  const socket = new WebSocket(url, "millrace.v1", { perMessageDeflate: false });
  const sampled = index % sampledEach === 0;
  socket.on("open", () => {
    socket.send(JSON.stringify({ t: "hello", v: 1 }));
    socket.send(JSON.stringify({ t: "sub", i: 1, filter: { workflow: [workflowId] }, from: "now" }));
  });
  socket.on("message", (data: Buffer) => {
    // The type is among the first characters of every frame.
    const head = data.toString("latin1", 0, 12);
    if (head.includes('"live"')) {
      if (++live === count) process.send?.({ live: true });
      return;
    }
    if (!head.includes('"ev"')) return;
    // Events that come in one turn share a frame.
    for (let at = data.indexOf(entryType); at !== -1; at = data.indexOf(entryType, at + 1)) received++;
    if (!sampled) return;
    const now = Date.now();
    const { d } = JSON.parse(data.toString()) as { d: [number, string, string, string, unknown][] };
    for (const entry of d) latenciesMs.push(now - Date.parse(entry[3]));
  });
  socket.on("error", (error) => {
    throw error;
  });
}

process.on("message", (message) => {
  if (message === "report") {
    process.send?.({ received, latenciesMs });
    process.disconnect();
    process.exit(0);
  }
});
