/**
 * Rows that are put together of what changed are the rows of the read model, at every commit: over snapshots,
 * resumes, joins in the middle, full windows, a lost tail, rings that are too small, and runs that open again.
 */
import {
  evolveCommit,
  formatCursor,
  initialRunState,
  matchesEvent,
  matchesRun,
  matchesStatus,
  parseFilter,
  toRow,
  type RunStatus,
  type StreamShape,
  type SubscribeFrame,
  type WorkflowEvent,
} from "@millrace/schemas";
import { afterEach, expect, it } from "vitest";
import { random } from "./core/seam.sim.ts";
import type { StreamClient } from "./testing/stream-client.ts";
import { completed, memoryWorld, progress, started, stepCompleted, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

const runs = ["a", "b", "c", "d"];
const base = Number(process.env["MILLRACE_SEED"] ?? 1);

interface Watch {
  readonly client: StreamClient;
  readonly frame: Omit<SubscribeFrame, "t">;
}

/** What one subscription showed: the row after each of its state entries. */
function rowsOf({ client, frame }: Watch) {
  const rows = new Map<string, object>();
  const shown: { readonly sequence: number; readonly id: string; readonly row: object | null }[] = [];
  const f = client.frames.flatMap((each) => (each.t === "subbed" ? [each.f] : []))[0];
  let since = 0;
  for (const each of client.frames) {
    if (each.t === "subbed") since = each.s;
    else if (each.t === "snap") for (const row of each.rows) rows.set(row.id, row);
    else if (each.t === "ev" && each.f === f) {
      for (const [sequence, type, id, , fields] of each.d) {
        if (frame.shape === "events" && shown.at(-1)?.sequence !== sequence)
          shown.push({ sequence, id, row: null });
        if (type !== "state") continue;
        const row = { ...rows.get(id), ...(fields as object) };
        rows.set(id, row);
        shown.push({ sequence, id, row });
      }
    }
  }
  return { since, shown, i: frame.i };
}

it.each([0, 1, 2, 3, 9, 15])(
  "rows are exact, seed + %i",
  async (offset) => {
    const seed = base + offset;
    const next = random(seed);
    const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T;
    const hint = `MILLRACE_SEED=${seed}`;
    const starting = memoryWorld({ server: { settings: { commitsMax: 12, pageCommitsMax: 7 } } });
    world = await starting;
    const epoch = (await world.log.info()).epoch;
    const watches: Watch[] = [];
    const begun = new Set<string>();
    const runNumbers = new Map<string, number>();
    const closed = new Set<string>();
    let last = 0;
    let tailUp = true;

    const commitOf = (id: string): WorkflowEvent[] => {
      if (!begun.has(id)) {
        begun.add(id);
        return [started({ of: id }), progress("begun")];
      }
      if (closed.has(id)) {
        if (next() < 0.5) return [progress("too late")];
        closed.delete(id);
        const run = (runNumbers.get(id) ?? 1) + 1;
        runNumbers.set(id, run);
        return [{ type: "WorkflowReset", data: { run, kind: "reset" } }, started({ run })];
      }
      const dice = next();
      if (dice < 0.08) {
        closed.add(id);
        return [completed({ n: last })];
      }
      if (dice < 0.2) return [{ type: next() < 0.5 ? "WorkflowPaused" : "WorkflowResumed", data: {} }];
      if (dice < 0.35)
        return [{ type: "AttributesUpserted", data: { attributes: { n: last, k: pick(["x", null]) } } }];
      if (dice < 0.7) return [stepCompleted(`step-${last % 9}`, { n: last })];
      return [progress(`at ${last}`)];
    };
    const watch = async (from: string, shape: StreamShape, filter: SubscribeFrame["filter"]) => {
      const client = await world.client();
      const frame = {
        i: 1,
        from,
        shape,
        filter,
        ...(next() < 0.4 ? { window: 1 + Math.floor(next() * 6) } : {}),
        ...(next() < 0.4 ? { batch: { max: 1 + Math.floor(next() * 4), ms: 5 } } : {}),
      };
      client.subscribe(frame);
      watches.push({ client, frame });
    };
    const acknowledge = () => {
      for (const { client, frame } of watches) {
        const cursor = client.cursors.get(1);
        if (frame.window !== undefined && cursor !== undefined && client.closed === null)
          client.send({ t: "ack", i: 1, s: cursor });
      }
    };

    await watch("now", "state", {});
    await watch("start", "events", { status: ["paused", "completed"] });
    for (let n = 0; n < 250; n++) {
      const dice = next();
      if (dice < 0.8 && tailUp) {
        const id = pick(runs);
        last = await world.append(id, "order", commitOf(id));
      } else if (dice < 0.86 && tailUp) {
        const filter = pick<SubscribeFrame["filter"]>([
          {},
          { workflow: ["a", "c"] },
          { status: ["paused", "completed"] },
          { event: ["StepCompleted", "WorkflowCompleted"] },
        ]);
        await watch(pick(["start", "now", "snapshot"]), pick(["state", "both", "events"]), filter);
      } else if (dice < 0.9) acknowledge();
      else if (dice < 0.93 && watches.length > 0 && tailUp) {
        const { client, frame } = pick(watches);
        const cursor = client.cursors.get(1);
        if (cursor !== undefined && frame.shape !== undefined)
          await watch(formatCursor(epoch, cursor), frame.shape, frame.filter);
      } else if (dice < 0.96) {
        if (tailUp) starting.broker.disconnect();
        else starting.broker.reconnect();
        tailUp = !tailUp;
      }
    }
    if (!tailUp) starting.broker.reconnect();
    last = await world.append("a", "order", commitOf("a"));
    await world.projection.waitFor(last, 10_000);
    const { projection } = world;
    const history = (
      await Promise.all(runs.filter((id) => begun.has(id)).map((id) => world.log.load(id)))
    ).flat();
    for (const each of watches) {
      const { client } = each;
      await client.until(
        () => {
          // A window that is full waits for this.
          const cursor = client.cursors.get(1);
          if (each.frame.window !== undefined && cursor !== undefined)
            client.send({ t: "ack", i: 1, s: cursor });
          return client.frames.some(({ t }) => t === "live") && sequencesDone(each);
        },
        `${hint}: the end of ${JSON.stringify(each.frame)}`,
        15_000,
      );
      const { shown, since } = rowsOf(each);
      for (const { sequence, id, row } of shown) {
        if (row === null) continue;
        const state = projection.stateAt(id, sequence);
        expect(row, `${hint} ${id} at ${sequence}`).toEqual(
          state === null ? null : JSON.parse(JSON.stringify(toRow(state))),
        );
      }
      expect(
        shown.map(({ sequence }) => sequence),
        hint,
      ).toEqual(wanted(each, since));
      expect(client.alarms, hint).toBe(0);
    }
    expect(watches.length, hint).toBeGreaterThan(2);

    function wanted({ frame }: Watch, since: number): number[] {
      const filter = parseFilter(frame.filter);
      const matching: number[] = [];
      for (const id of runs) {
        const state = initialRunState(id, "order");
        let before: RunStatus | null = null;
        for (const commit of history.filter(({ workflowId }) => workflowId === id)) {
          evolveCommit(state, commit);
          const around = { before, after: state.status };
          before = state.status;
          if (commit.sequence <= since || !matchesRun(filter, id, "order") || !matchesStatus(filter, around))
            continue;
          if (commit.events.some(({ type }) => matchesEvent(filter, type))) matching.push(commit.sequence);
        }
      }
      return matching.sort((a, b) => a - b);
    }

    function sequencesDone(each: Watch): boolean {
      const { shown, since } = rowsOf(each);
      return shown.length >= wanted(each, since).length;
    }
  },
  60_000,
);
