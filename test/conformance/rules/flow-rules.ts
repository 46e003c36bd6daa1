/** Who is slow or wants less is served less at a time, and gets everything all the same; who is done is told so. */
import { NotShown, type Rule } from "../kit.ts";
import { quietFor } from "./frame-rules.ts";

const window: Rule = {
  name: "window-and-ack",
  about:
    "no more than `window` entries go beyond the last ack; each ack lets more come, and all of it is exact",
  async run(kit) {
    const size = 5;
    const client = await kit.open();
    const judge = kit.subscribe(client, { from: "now", window: size });
    const free = kit.subscribe(client, { from: "now" });
    await client.until("both live", () => judge.live && free.live);
    const [id = ""] = kit.ids(1);
    await kit.driver.start(id, kit.type);
    let last = await kit.driver.steps(id, 8);
    await kit.reaches(client, free, last);
    await client.until("behind, for its window", () =>
      client.frames.some(({ t, why }) => t === "behind" && why === "window"),
    );
    // A heartbeat or two would be enough for what is wrongly sent to come.
    await quietFor(150);
    kit.assert(
      judge.entries.length === size,
      `${judge.entries.length} entries came without an ack, the window is ${size}`,
    );
    // Lower, and repeated: nothing moves back and nothing comes of it.
    client.acknowledge(judge, judge.entries[1]?.[0] ?? 0);
    await client.until("two more", () => judge.entries.length === size + 2);
    client.acknowledge(judge, judge.entries[0]?.[0] ?? 0);
    // Beyond what was sent: refused, and nothing changes.
    const begin = client.frames.length;
    client.acknowledge(judge, last + 1_000_000);
    const refused = await client.frame("the answer to an ack beyond", ({ t }) => t === "err", begin);
    kit.assert(refused.code !== undefined, "an ack beyond what was sent has no code");
    await quietFor(100);
    kit.assert(
      judge.entries.length === size + 2,
      `${judge.entries.length} entries, after acks of 2 in a window of ${size}`,
    );
    last = await kit.driver.complete(id);
    const acknowledge = async (): Promise<void> => {
      while (judge.lastSequence < last) {
        const had = judge.entries.length;
        client.acknowledge(judge);
        await client.until("more after an ack", () => judge.entries.length > had);
      }
    };
    await acknowledge();
    client.acknowledge(judge);
    await client.until("live again", () => judge.live);
    const next = await kit.driver.run(kit.id(1), kit.type, 1);
    last = next;
    await client.until("the first of it", () =>
      judge.entries.some(([, , workflow]) => workflow === kit.id(1)),
    );
    await acknowledge();
    kit.exact(judge.entries, await kit.driver.truth(kit.ids(2), last), "through a window");
  },
};

const batch: Rule = {
  name: "batches",
  about:
    "with `batch` live entries are held until there are enough or they have waited long enough, and none is lost",
  async run(kit) {
    const client = await kit.open();
    const held = kit.subscribe(client, { from: "now", batch: { max: 6, ms: 1_000 } });
    const timed = kit.subscribe(client, { from: "now", batch: { max: 1_000, ms: 50 } });
    const free = kit.subscribe(client, { from: "now" });
    await client.until("all live", () => held.live && timed.live && free.live);
    const last = await kit.driver.run(kit.id(0), kit.type, 8);
    await client.until("all of it", () => [held, timed, free].every((judge) => judge.lastSequence >= last));
    const truth = await kit.driver.truth([kit.id(0)], last);
    for (const [n, judge] of [held, timed, free].entries()) kit.exact(judge.entries, truth, `batch ${n}`);
    const frames = held.frames.filter(({ t }) => t === "ev").length;
    kit.assert(
      frames <= Math.ceil(truth.length / 2),
      `${truth.length} entries came in ${frames} frames, with a batch of 6`,
    );
  },
};

const slow: Rule = {
  name: "slow-reader-is-exact",
  about:
    "a reader that stops is demoted, not dropped; when it reads on it gets everything, once, and others never wait",
  async run(kit) {
    const fast = await kit.open();
    const other = kit.subscribe(fast, { from: "now" });
    const client = await kit.open();
    const judge = kit.subscribe(client, { from: "now" });
    await client.until("live", () => judge.live);
    await fast.until("live", () => other.live);
    client.pause();
    const id = kit.id(0);
    await kit.driver.start(id, kit.type);
    // Below the size from which payloads are stored apart; together more than most kernels keep for a reader that has stopped.
    const text = "0123456789".repeat(12_000);
    await kit.driver.steps(id, 76, (n) => ({ n, text }));
    const last = await kit.driver.complete(id);
    await kit.reaches(fast, other, last);
    client.resume();
    await kit.reaches(client, judge, last);
    await client.until("live again", () => judge.live);
    const truth = await kit.driver.truth([id], last);
    kit.exact(judge.entries, truth, "the slow reader");
    kit.exact(other.entries, truth, "the one beside it");
    if (!client.frames.some(({ t, why }) => t === "behind" && why === "slow"))
      throw new NotShown(
        "the kernel kept all of 9 MB for a reader that had stopped: it was exact, and never fell behind",
      );
  },
};

const closed: Rule = {
  name: "until-closed",
  about: "`until: closed` ends after the last entry of its run, whether it comes before, during or after",
  async run(kit) {
    const id = kit.id(0);
    const filter = { workflow: [id] };
    const client = await kit.open();
    const early = kit.subscribe(client, { filter, from: "now", until: "closed" });
    await kit.driver.start(id, kit.type);
    const during = kit.subscribe(client, { filter, from: "start", until: "closed" });
    await kit.driver.steps(id, 3);
    const last = await kit.driver.complete(id);
    const done = [early, during];
    await client.until("their end", () => done.every((judge) => judge.over !== null));
    const late = kit.subscribe(client, { filter, from: "start", until: "closed" });
    const none = kit.subscribe(client, { filter, from: "now", until: "closed" });
    done.push(late, none);
    await client.until("the end of those that came late", () => done.every((judge) => judge.over !== null));
    const truth = await kit.driver.truth([id], last);
    for (const [n, judge] of done.entries()) {
      kit.assert(judge.over?.t === "end", `subscription ${n} is over by ${JSON.stringify(judge.over)}`);
      kit.assert(
        (judge.over?.s ?? 0) >= last,
        `subscription ${n} ends at ${judge.over?.s}, the run did at ${last}`,
      );
      kit.exact(judge.entries, judge === none ? [] : truth, `subscription ${n} until closed`);
    }
  },
};

const filters: Rule = {
  name: "filters",
  about: "fields are and-ed, the values of one or-ed; by workflow, type, event, attribute and status",
  async run(kit) {
    const other = `${kit.type}-other`;
    const [a = "", b = "", c = ""] = kit.ids(3);
    const client = await kit.open();
    const sub = (filter: unknown) => kit.subscribe(client, { filter, from: "now" });
    const wanted = {
      a: sub({ workflow: [a] }),
      ab: sub({ workflow: [a, b] }),
      typed: sub({ type: [other] }),
      none: sub({ workflow: [a], type: [other] }),
      completed: sub({ type: [kit.type, other], event: ["StepCompleted", "WorkflowCompleted"] }),
      gold: sub({ type: [kit.type, other], attr: { tier: ["gold", "silver"] } }),
      finished: sub({ type: [kit.type, other], status: ["completed"] }),
    };
    await client.until("all live", () => Object.values(wanted).every((judge) => judge.live));
    await kit.driver.start(a, kit.type, { attributes: { tier: "gold" } });
    await kit.driver.start(b, kit.type, { attributes: { tier: "iron" } });
    await kit.driver.start(c, other, { attributes: { tier: "silver" } });
    let last = 0;
    for (const id of [a, b, c]) {
      await kit.driver.steps(id, 2);
      last = await kit.driver.complete(id);
    }
    const truth = await kit.driver.truth([a, b, c], last);
    const of = (...ids: readonly string[]) => truth.filter(([, , id]) => ids.includes(id));
    const expected = {
      a: of(a),
      ab: of(a, b),
      typed: of(c),
      none: [],
      completed: truth.filter(([, type]) => type === "StepCompleted" || type === "WorkflowCompleted"),
      gold: of(a, c),
      finished: truth.filter(([, type]) => type === "WorkflowCompleted"),
    };
    await client.until(
      "all of it",
      () =>
        wanted.typed.lastSequence >= last &&
        wanted.gold.lastSequence >= last &&
        wanted.finished.lastSequence >= last,
    );
    for (const [name, judge] of Object.entries(wanted))
      kit.exact(judge.entries, expected[name as keyof typeof expected], `live, filter ${name}`);
    const again = await kit.open();
    for (const [name, judge] of Object.entries(wanted)) {
      const filter = filtersOf(kit.type, other, a, b)[name];
      const caught = kit.subscribe(again, { filter, from: "start" });
      await again.until("live", () => caught.live);
      kit.exact(caught.entries, expected[name as keyof typeof expected], `from start, filter ${name}`);
      kit.assert(judge.over === null, `filter ${name} is over`);
    }
  },
};

function filtersOf(type: string, other: string, a: string, b: string): Readonly<Record<string, unknown>> {
  return {
    a: { workflow: [a] },
    ab: { workflow: [b, a] },
    typed: { type: [other] },
    none: { workflow: [a], type: [other] },
    completed: { type: [other, type], event: ["WorkflowCompleted", "StepCompleted"] },
    gold: { type: [type, other], attr: { tier: ["silver", "gold"] } },
    finished: { type: [type, other], status: ["completed"] },
  };
}

export const flowRules: readonly Rule[] = [filters, closed, window, batch, slow];
