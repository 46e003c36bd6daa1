/** The chain: everything that matches, once, in order, wherever a subscription begins and whatever it comes through. */
import type { Entry } from "../frame.ts";
import type { Rule } from "../kit.ts";

const after = (entries: readonly Entry[], sequence: number): Entry[] =>
  entries.filter(([each]) => each > sequence);

const live: Rule = {
  name: "live-exact",
  about: "a live subscription gets every commit as it happens, once, in order",
  async run(kit) {
    const client = await kit.open();
    const judge = kit.subscribe(client, { from: "now" });
    await client.until("live", () => judge.live);
    const ids = kit.ids(3);
    const last = Math.max(...(await Promise.all(ids.map((id) => kit.driver.run(id, kit.type, 3)))));
    await kit.reaches(client, judge, last);
    kit.exact(judge.entries, await kit.driver.truth(ids, last), "live");
  },
};

const now: Rule = {
  name: "now-is-now",
  about: "`now`, which is the default, gives nothing of before and everything after",
  async run(kit) {
    const begun = await kit.driver.start(kit.id(0), kit.type);
    const client = await kit.open();
    const judges = [kit.subscribe(client), kit.subscribe(client, { from: "now" })];
    await client.until("both live", () => judges.every((judge) => judge.live));
    for (const judge of judges)
      kit.assert((judge.frames[0]?.s ?? 0) >= begun, "now is before a commit that was answered");
    const last = await kit.driver.steps(kit.id(0), 2);
    for (const judge of judges) await kit.reaches(client, judge, last);
    const truth = await kit.driver.truth([kit.id(0)], last);
    for (const judge of judges) kit.exact(judge.entries, after(truth, begun), "from now");
  },
};

const catchUp: Rule = {
  name: "catch-up-exact",
  about: "`start` gives the whole history that matches, then `live`",
  async run(kit) {
    const ids = kit.ids(3);
    let last = 0;
    for (const id of ids) last = await kit.driver.run(id, kit.type, 4);
    const client = await kit.open();
    const judge = kit.subscribe(client, { from: "start" });
    await client.until("live", () => judge.live);
    kit.exact(judge.entries, await kit.driver.truth(ids, last), "from start");
    kit.assert((judge.cursor ?? 0) >= last, `live at ${judge.cursor}, the head was ${last} before`);
  },
};

const seam: Rule = {
  name: "seam-exact",
  about:
    "subscriptions that begin in the middle of traffic go from history to live without a hole or a repeat",
  async run(kit) {
    const ids = kit.ids(4);
    const client = await kit.open();
    const judges = [kit.subscribe(client, { from: "start" })];
    const driving = Promise.all(ids.map((id) => kit.driver.run(id, kit.type, 12)));
    driving.catch(() => undefined);
    for (let n = 0; n < 10; n++) {
      const had = judges[0]?.entries.length ?? 0;
      await client.until("traffic", () => (judges[0]?.entries.length ?? 0) >= Math.min(had + 3, 90));
      judges.push(kit.subscribe(n % 3 === 0 ? await kit.open() : client, { from: "start" }));
    }
    const last = Math.max(...(await driving));
    const truth = await kit.driver.truth(ids, last);
    await kit.eventually(`every subscription reaches ${last}`, () =>
      judges.every((judge) => judge.lastSequence >= last),
    );
    for (const [n, judge] of judges.entries()) kit.exact(judge.entries, truth, `subscription ${n}`);
  },
};

const everyCursor: Rule = {
  name: "resume-from-every-cursor",
  about: "a cursor is exclusive and good anywhere: at each commit, between them, before and at the head",
  async run(kit) {
    const ids = kit.ids(2);
    const [one = "", other = ""] = ids;
    await kit.driver.start(one, kit.type);
    await kit.driver.start(other, kit.type);
    for (let n = 1; n <= 4; n++)
      for (const id of ids) await kit.driver.step(id, n === 1 ? "work" : `work#${n}`, { n });
    await kit.driver.complete(one);
    const last = await kit.driver.complete(other);
    const truth = await kit.driver.truth(ids, last);
    const first = truth[0]?.[0] ?? 0;
    const cursors = Array.from({ length: Math.min(last - first + 2, 60) }, (_, n) => first - 1 + n);
    cursors.push(last);
    const client = await kit.open();
    const { epoch } = client.hello;
    const judges = cursors.map((at) => kit.subscribe(client, { from: `${epoch}.${at}` }));
    await client.until("all live", () => judges.every((judge) => judge.live || judge.over !== null));
    for (const [n, judge] of judges.entries()) {
      const at = cursors[n] ?? 0;
      kit.assert(
        judge.frames[0]?.s === at && judge.frames[0].resumed === true,
        `subbed does not begin at ${at}`,
      );
      kit.exact(judge.entries, after(truth, at), `from ${at}`);
    }
    // And on from there, live, each from what it was given.
    const more = await kit.driver.run(kit.id(2), kit.type, 1);
    await client.until("the next run", () => judges.every((judge) => judge.lastSequence >= more));
    const next = await kit.driver.truth([kit.id(2)], more);
    for (const [n, judge] of judges.entries())
      kit.exact(judge.entries, [...after(truth, cursors[n] ?? 0), ...next], `from ${cursors[n]}, then live`);
  },
};

const resume: Rule = {
  name: "resume-after-a-cut",
  about: "one cursor over many connections: nothing between them is lost or comes again",
  async run(kit) {
    const judge = kit.judge();
    const id = kit.id(0);
    await kit.driver.start(id, kit.type);
    let last = 0;
    for (let n = 1; n <= 8; n++) {
      const client = await kit.open();
      client.subscribe({ filter: kit.mine, from: "start" }, judge);
      if (n % 2 === 0) await client.until("live", () => judge.live);
      last = await kit.driver.step(id, n === 1 ? "work" : `work#${n}`, { n });
      if (n % 3 !== 0) await kit.reaches(client, judge, last);
      client.cut();
    }
    const client = await kit.open();
    client.subscribe({ filter: kit.mine }, judge);
    await kit.reaches(client, judge, last);
    kit.exact(judge.entries, await kit.driver.truth([id], last), "over nine connections");
  },
};

const whole: Rule = {
  name: "commits-travel-whole",
  about: "all events of a commit share its sequence and are in the same frame, in their order",
  async run(kit) {
    const client = await kit.open();
    const judge = kit.subscribe(client, { from: "now" });
    const single = kit.subscribe(client, { from: "now", window: 1 });
    await client.until("live", () => judge.live && single.live);
    // A start with a signal is one commit of two events.
    const signal = { name: "paid", payload: { amount: 7 } };
    let last = 0;
    for (const id of kit.ids(3)) {
      await kit.driver.start(id, kit.type, { signal });
      last = await kit.driver.step(id, "work");
    }
    await kit.reaches(client, judge, last);
    const truth = await kit.driver.truth(kit.ids(3), last);
    const sizes = truth.map(([sequence]) => truth.filter(([each]) => each === sequence).length);
    kit.assert(Math.max(...sizes) > 1, "no commit with several events came about");
    kit.exact(judge.entries, truth, "commits of several events");
    const [signalled] = truth;
    kit.assert(
      single.entries.filter(([sequence]) => sequence === signalled?.[0]).length === sizes[0],
      "a window tore a commit apart",
    );
  },
};

const quiet: Rule = {
  name: "bookmarks-are-true",
  about:
    "a quiet subscription's cursor moves on by bookmarks and heartbeats, and nothing is missing when it resumes there",
  async run(kit) {
    const [quietId = "", busyId = ""] = kit.ids(2);
    await kit.driver.start(quietId, kit.type);
    const busy = await kit.driver.run(busyId, `${kit.type}-busy`, 4);
    const filter = { workflow: [quietId] };
    const client = await kit.open();
    const judge = kit.subscribe(client, { filter, from: "start" });
    await client.until("live", () => judge.live);
    kit.assert(
      (judge.cursor ?? 0) >= busy,
      `live, and the cursor ${judge.cursor} is behind what was passed over, ${busy}`,
    );
    const next = await kit.driver.step(quietId, "work");
    // From where the bookmark put it: what came after must come, from there too.
    const again = await kit.open();
    again.subscribe({ filter }, judge);
    await kit.reaches(again, judge, next);
    kit.exact(judge.entries, await kit.driver.truth([quietId], next), "over a bookmark");
  },
};

const heartbeat: Rule = {
  name: "heartbeats-tell-of-a-loss",
  about:
    "a heartbeat names, for each live subscription, the last sequence it was sent: a lost frame is seen by it",
  async run(kit) {
    const client = await kit.open();
    const judge = kit.subscribe(client, { from: "now" });
    const lossy = kit.subscribe(client, { from: "now" });
    const idle = kit.subscribe(client, { filter: { workflow: [kit.id(9)] }, from: "now" });
    kit.forgive(lossy);
    await client.until("live", () => judge.live && lossy.live && idle.live);
    lossy.lose = ({ t }) => t === "ev";
    await kit.driver.start(kit.id(0), kit.type);
    const last = await kit.driver.step(kit.id(0), "work");
    await kit.reaches(client, judge, last);
    const seen = client.frames.length;
    const { heartbeatMs } = client.hello;
    await client.until(
      "a heartbeat",
      () => client.frames.slice(seen).some(({ t }) => t === "hb"),
      heartbeatMs * 2 + kit.deadlineMs,
    );
    kit.assert(
      lossy.breaches.some((breach) => breach.startsWith("gap")),
      `frames up to ${last} were lost on the way, and the heartbeat did not tell`,
    );
    kit.assert(
      (idle.cursor ?? 0) >= last,
      `a heartbeat left the cursor of an idle subscription at ${idle.cursor}`,
    );
  },
};

export const chainRules: readonly Rule[] = [
  live,
  now,
  catchUp,
  seam,
  everyCursor,
  resume,
  whole,
  quiet,
  heartbeat,
];
