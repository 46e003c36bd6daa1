import type { ServerFrame } from "@millrace/schemas";
import type { ModelServer, ModelSocket } from "./model-server.ts";
import type { SeededRandom } from "./seeded-random.ts";

/** The HTTP twins over the model: each request is one of its sockets, so that the schedule may delay and cut it. */
export function modelFetch(server: ModelServer, random: SeededRandom): typeof fetch {
  return (input, init) => {
    const query = new URL(input instanceof Request ? input.url : input).searchParams;
    const socket = begin(server, query);
    init?.signal?.addEventListener("abort", () => socket.close());
    return query.get("mode") === "poll"
      ? answerPoll(server, socket, query.get("waitMs") !== "0", init?.signal)
      : answerStream(server, socket, random, init?.signal);
  };
}

function begin(server: ModelServer, query: URLSearchParams): ModelSocket {
  const socket = server.connect();
  server.receive(socket, { t: "hello", v: 1 });
  socket.outgoing.length = 0;
  socket.welcomed = true;
  // Such an answer says itself where it begins.
  socket.whole = query.get("from") === "start";
  const filter = Object.fromEntries(
    (["workflow", "event"] as const).flatMap((field) => {
      const values = query.getAll(field);
      return values.length === 0 ? [] : [[field, values]];
    }),
  );
  server.receive(socket, { t: "sub", i: 0, filter, from: query.get("from") ?? "now" });
  return socket;
}

const networkError = (): TypeError => new TypeError("network error");

function answerStream(
  server: ModelServer,
  socket: ModelSocket,
  random: SeededRandom,
  signal: AbortSignal | null | undefined,
): Promise<Response> {
  const bytes = new TextEncoder();
  return new Promise((resolve, reject) => {
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        let over = false;
        const end = (): void => {
          if (!over) controller.error(networkError());
          over = true;
          reject(networkError());
        };
        signal?.addEventListener("abort", end);
        socket.addEventListener("close", end);
        socket.addEventListener("message", ({ data }) => {
          const frame = JSON.parse(String(data)) as ServerFrame;
          const moves = frame.t === "ev" || frame.t === "bm" || frame.t === "hb";
          const id = moves ? `id: ${server.epoch}.${frame.s}\r\n` : "";
          const text = bytes.encode(`${id}event: ${frame.t}\r\ndata: ${String(data)}\r\n\r\n`);
          const cut = random.below(text.length);
          controller.enqueue(text.slice(0, cut));
          controller.enqueue(text.slice(cut));
        });
      },
    });
    socket.addEventListener("open", () =>
      resolve(new Response(body, { headers: { "content-type": "text/event-stream" } })),
    );
  });
}

function answerPoll(
  server: ModelServer,
  socket: ModelSocket,
  waits: boolean,
  signal: AbortSignal | null | undefined,
): Promise<Response> {
  return new Promise((resolve, reject) => {
    const end = (): void => reject(networkError());
    signal?.addEventListener("abort", end);
    socket.addEventListener("close", end);
    let p = 0;
    let live = false;
    const answer = (from: number, s: number, d: readonly unknown[]): void => {
      socket.close();
      resolve(Response.json({ p: from, s, d, live, cursor: `${server.epoch}.${s}` }));
    };
    socket.addEventListener("message", ({ data }) => {
      if (socket.closed) return;
      const frame = JSON.parse(String(data)) as ServerFrame;
      if (frame.t === "subbed") p = frame.s;
      else if (frame.t === "ev") answer(frame.p, frame.s, frame.d);
      else if (frame.t === "bm") answer(frame.p, frame.s, []);
      else if (frame.t === "live") {
        live = true;
        // Something was lost on the way here: the gap must show.
        if (!waits || frame.s > p) answer(frame.s, frame.s, []);
      } else if (frame.t === "hb") {
        const [first] = frame.l;
        // Not while it catches up: what comes up to there was not sent yet.
        if (first !== undefined) answer(Math.max(p, first[1]), frame.s, []);
      }
    });
  });
}
