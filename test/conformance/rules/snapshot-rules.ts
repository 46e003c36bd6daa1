/** Rows: a snapshot is of one moment, its tail begins there, and merged entries are the row of their sequence. */
import type { ChainJudge } from "../chain-judge.ts";
import type { Entry, Row } from "../frame.ts";
import type { Kit, Rule } from "../kit.ts";

/** What `GET ?at=` says, but for what this test cannot compare: nothing. Keys in one order. */
function canonical(row: Readonly<Record<string, unknown>>): string {
  return JSON.stringify(Object.fromEntries(Object.entries(row).toSorted(([a], [b]) => (a < b ? -1 : 1))));
}

/** Merges state entries as the document says and compares each with the row as of its sequence. */
async function mergedRowsAreTrue(kit: Kit, judge: ChainJudge, every = 1): Promise<void> {
  const rows = new Map<string, Readonly<Record<string, unknown>>>(judge.rows.map((row) => [row.id, row]));
  const known = new Set(rows.keys());
  let n = 0;
  for (const [sequence, type, id, , fields] of judge.entries) {
    if (type !== "state") continue;
    kit.assert(
      fields["id"] === id && fields["sequence"] === sequence,
      `the state of ${id} at ${sequence} is of ${String(fields["id"])} at ${String(fields["sequence"])}`,
    );
    if (!known.has(id))
      kit.assert(
        "status" in fields && "steps" in fields,
        `the first state of ${id}, at ${sequence}, is not a full row`,
      );
    known.add(id);
    const row = { ...rows.get(id), ...fields };
    rows.set(id, row);
    n++;
    if (n % every !== 0) continue;
    const wanted = await kit.driver.rowAt(id, sequence);
    kit.assert(
      canonical(row) === canonical(wanted),
      `the merged row of ${id} at ${sequence} is ${canonical(row)}, GET ?at= says ${canonical(wanted)}`,
    );
  }
  kit.assert(n > 0, "no state entry came");
}

/** One line for each commit, as `state` and `both` have them. */
const statesOf = (truth: readonly Entry[]): string[] => [
  ...new Set(truth.map(([sequence, , id]) => `${sequence} ${id}`)),
];

function statesAreExact(kit: Kit, judge: ChainJudge, truth: readonly Entry[], what: string): void {
  const got = judge.entries
    .filter(([, type]) => type === "state")
    .map(([sequence, , id]) => `${sequence} ${id}`);
  const wanted = statesOf(truth.filter(([sequence]) => sequence > (judge.snapshotAt ?? 0)));
  kit.assert(
    JSON.stringify(got) === JSON.stringify(wanted),
    `${what}: states of ${got.join(", ")}; expected ${wanted.join(", ")}`,
  );
}

const snapshot: Rule = {
  name: "snapshot-then-tail",
  about: "a snapshot taken in traffic is exact at its sequence, and what follows it is everything after",
  async run(kit) {
    const ids = kit.ids(4);
    for (const id of ids) await kit.driver.start(id, kit.type);
    const client = await kit.open();
    const judges: ChainJudge[] = [];
    const take = () => judges.push(kit.subscribe(client, { from: "snapshot", shape: "state" }));
    take();
    let last = 0;
    const driving = Promise.all(
      ids.map(async (id) => {
        await kit.driver.steps(id, 10);
        last = Math.max(last, await kit.driver.complete(id));
      }),
    );
    driving.catch(() => undefined);
    for (let n = 0; n < 6; n++) {
      const had = judges[0]?.entries.length ?? 0;
      await client.until("traffic", () => (judges[0]?.entries.length ?? 0) >= Math.min(had + 4, 60));
      take();
    }
    await driving;
    await client.until("every tail", () => judges.every((judge) => judge.lastSequence >= last));
    const truth = await kit.driver.truth(ids, last);
    for (const judge of judges) {
      const at = judge.snapshotAt ?? 0;
      for (const row of judge.rows) {
        const newest = truth.findLast(([sequence, , id]) => id === row.id && sequence <= at)?.[0];
        kit.assert(
          row.sequence === newest,
          `the snapshot of ${at} has ${row.id} as of ${row.sequence}; its last commit until then is ${newest}`,
        );
      }
      const wanted = [...new Set(truth.filter(([sequence]) => sequence <= at).map(([, , id]) => id))];
      kit.assert(
        JSON.stringify(judge.rows.map(({ id }) => id).toSorted()) === JSON.stringify(wanted.toSorted()),
        `the snapshot of ${at} has ${judge.rows.map(({ id }) => id).join(", ")}; expected ${wanted.join(", ")}`,
      );
      statesAreExact(kit, judge, truth, `the tail of the snapshot of ${at}`);
    }
    const [first] = judges;
    for (const row of first?.rows ?? []) {
      const wanted = await kit.driver.rowAt(row.id, first?.snapshotAt ?? 0);
      kit.assert(
        canonical(row) === canonical(wanted),
        `the row of ${row.id} is not what it was at ${first?.snapshotAt}`,
      );
    }
    if (first !== undefined) await mergedRowsAreTrue(kit, first, 3);
  },
};

const empty: Rule = {
  name: "snapshot-of-nothing",
  about: "a snapshot without rows ends with snapend all the same, and its tail brings what begins then",
  async run(kit) {
    const client = await kit.open();
    const judge = kit.subscribe(client, { from: "snapshot", shape: "state" });
    await client.until("live", () => judge.live);
    kit.assert(judge.rows.length === 0, `rows of ${judge.rows.map((row: Row) => row.id).join(", ")}`);
    const last = await kit.driver.run(kit.id(0), kit.type, 1);
    await kit.reaches(client, judge, last);
    statesAreExact(kit, judge, await kit.driver.truth([kit.id(0)], last), "after an empty snapshot");
  },
};

const merge: Rule = {
  name: "states-merge",
  about:
    "state entries, merged in order, are the row as of each sequence: in catch-up, live, and after a resume",
  async run(kit) {
    const ids = kit.ids(2);
    for (const id of ids) await kit.driver.start(id, kit.type, { steps: ["work", "work#2"], input: { id } });
    await kit.driver.steps(ids[0] ?? "", 2);
    const client = await kit.open();
    const judge = kit.subscribe(client, { from: "start", shape: "state" });
    await client.until("live", () => judge.live);
    await kit.driver.steps(ids[1] ?? "", 2);
    await kit.driver.complete(ids[0] ?? "", { done: true });
    const middle = await kit.driver.step(ids[1] ?? "", "more");
    await kit.reaches(client, judge, middle);
    client.cut();
    // What it knew is forgotten with the connection: the first entry of each run is full again.
    const again = await kit.open();
    const resumed = kit.judge();
    [resumed.cursor, resumed.epoch] = [judge.cursor, judge.epoch];
    again.subscribe({ filter: kit.mine, shape: "state" }, resumed);
    const last = await kit.driver.complete(ids[1] ?? "", { done: true });
    await kit.reaches(again, resumed, last);
    const truth = await kit.driver.truth(ids, last);
    await mergedRowsAreTrue(kit, judge);
    await mergedRowsAreTrue(kit, resumed);
    statesAreExact(
      kit,
      resumed,
      truth.filter(([sequence]) => sequence > (judge.cursor ?? 0)),
      "after a resume",
    );
  },
};

const both: Rule = {
  name: "both-shapes",
  about: "`both` gives a commit's events and then its state, in the same frame",
  async run(kit) {
    const id = kit.id(0);
    await kit.driver.start(id, kit.type, { signal: { name: "go" } });
    await kit.driver.step(id, "work");
    const client = await kit.open();
    const judge = kit.subscribe(client, { from: "start", shape: "both" });
    await client.until("live", () => judge.live);
    const last = await kit.driver.complete(id);
    await kit.reaches(client, judge, last);
    const truth = await kit.driver.truth([id], last);
    kit.exact(
      judge.entries.filter(([, type]) => type !== "state"),
      truth,
      "events of both",
    );
    statesAreExact(kit, judge, truth, "states of both");
    for (const { d = [] } of judge.frames)
      for (const [n, [sequence, type]] of d.entries())
        if (type === "state")
          kit.assert(
            d[n - 1]?.[0] === sequence && d[n - 1]?.[1] !== "state",
            `the state of ${sequence} does not follow its events in their frame`,
          );
    await mergedRowsAreTrue(kit, judge);
  },
};

const minimum: Rule = {
  name: "own-writes-are-read",
  about: "with `min` a snapshot has what was just written",
  async run(kit) {
    const client = await kit.open();
    for (let n = 0; n < 5; n++) {
      const sequence = await kit.driver.start(kit.id(n), kit.type);
      const judge = kit.subscribe(client, { from: "snapshot", min: sequence });
      await client.until("the snapshot", () => judge.snapshotAt !== null || judge.over !== null);
      kit.assert(
        judge.rows.some((row) => row.id === kit.id(n)),
        `written at ${sequence}, and not in the snapshot of ${judge.snapshotAt}`,
      );
    }
  },
};

export const snapshotRules: readonly Rule[] = [snapshot, empty, merge, both, minimum];
