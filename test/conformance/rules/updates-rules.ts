/** The plain updates of one run: the present one, then each that follows; with `from` every one after it. */
import { WebSocket } from "ws";
import type { Kit, Rule } from "../kit.ts";

interface Update {
  readonly workflow_id: string;
  readonly status: string;
  readonly sequence: number;
}

interface Updates {
  readonly received: Update[];
  readonly socket: WebSocket;
  closed: number | null;
}

function follow(kit: Kit, id: string, from?: number): Updates {
  const socket = new WebSocket(
    `${kit.target.url}/api/workflows/${id}/updates${from === undefined ? "" : `?from=${from}`}`,
  );
  const updates: Updates = { received: [], socket, closed: null };
  socket.on("message", (data: Buffer) => updates.received.push(JSON.parse(data.toString()) as Update));
  socket.on("close", (code) => {
    updates.closed = code;
  });
  socket.on("error", () => undefined);
  kit.cleanup(() => {
    socket.terminate();
    return Promise.resolve();
  });
  return updates;
}

const updates: Rule = {
  name: "plain-updates",
  about:
    "plain updates come once for each commit, also of a run that does not exist yet; `from` resumes at any of them",
  async run(kit) {
    const id = kit.id(0);
    const early = follow(kit, id);
    const { head } = (await kit.open()).hello;
    const zero = follow(kit, id, head);
    await kit.eventually("both are open", () =>
      [early, zero].every(({ socket }) => socket.readyState === WebSocket.OPEN),
    );
    await kit.driver.start(id, kit.type);
    await kit.driver.steps(id, 3);
    const late = follow(kit, id);
    await kit.eventually("the present update", () => late.received.length > 0);
    const last = await kit.driver.complete(id);
    await kit.eventually("the last update", () =>
      [early, zero, late].every(({ received }) => received.at(-1)?.sequence === last),
    );
    const truth = [...new Set((await kit.driver.truth([id], last)).map(([sequence]) => sequence))];
    const is = (what: string, got: Updates, wanted: readonly number[]) => {
      const sequences = got.received.map(({ sequence }) => sequence);
      kit.assert(
        JSON.stringify(sequences) === JSON.stringify(wanted),
        `${what}: ${sequences.join()}; expected ${wanted.join()}`,
      );
    };
    is("waiting for the run", early, truth);
    is("from before it began", zero, truth);
    const present = late.received[0]?.sequence ?? 0;
    is(
      "in the midst",
      late,
      truth.filter((sequence) => sequence >= present),
    );
    kit.assert(
      late.received.at(-1)?.status === "completed" && late.received.at(-1)?.workflow_id === id,
      "the last update is not of the completed run",
    );
    for (const from of truth.slice(0, -1)) {
      const resumed = follow(kit, id, from);
      await kit.eventually(`all after ${from}`, () => resumed.received.at(-1)?.sequence === last);
      is(
        `from ${from}`,
        resumed,
        truth.filter((sequence) => sequence > from),
      );
    }
    const future = follow(kit, id, last + 4_000_000_000);
    await kit.eventually("the close of a future cursor", () => future.closed !== null);
    kit.assert(
      future.closed === 4500 && future.received.length === 0,
      `a future cursor: closed with ${future.closed}`,
    );
  },
};

export const updatesRules: readonly Rule[] = [updates];
