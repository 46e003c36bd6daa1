/** A cursor that cannot be honoured is told so by a frame of its own, never by silence or by another beginning. */
import type { RawClient } from "../raw-client.ts";
import { NotShown, type Kit, type Rule } from "../kit.ts";

async function toldGone(kit: Kit, client: RawClient, from: string, why: string): Promise<void> {
  const judge = kit.subscribe(client, { from });
  await client.until(`an answer to the cursor ${from}`, () => judge.over !== null || judge.f !== null);
  const { over } = judge;
  kit.assert(
    over?.t === "gone" && over.why === why,
    `${from}: expected gone ${why}, got ${JSON.stringify(over ?? judge.frames[0])}`,
  );
  const { epoch, head } = client.hello;
  kit.assert(over?.e === epoch, `${from}: gone says epoch ${over?.e}, it is ${epoch}`);
  kit.assert((over?.head ?? -1) >= head, `${from}: gone says head ${over?.head}, it was ${head}`);
  // The subscription is over: its id is free.
  client.send({ t: "unsub", i: over?.i });
  await client.frame("unsub of what is gone", (frame) => frame.t === "err" && frame.i === over?.i);
}

const future: Rule = {
  name: "gone-future",
  about: "a cursor beyond the end of the log is told gone, future",
  async run(kit) {
    await kit.driver.start(kit.id(0), kit.type);
    const client = await kit.open();
    const { epoch, head } = client.hello;
    for (const beyond of [1_000_000, 4_000_000_000])
      await toldGone(kit, client, `${epoch}.${head + beyond}`, "future");
  },
};

const epoch: Rule = {
  name: "gone-epoch",
  about: "a cursor of another log is told gone, epoch, also when its sequence exists here",
  async run(kit) {
    const client = await kit.open();
    const other = client.hello.epoch === "0000abcd" ? "0000abce" : "0000abcd";
    await toldGone(kit, client, `${other}.${client.hello.head}`, "epoch");
    await toldGone(kit, client, `${other}.999999999`, "epoch");
  },
};

const expired: Rule = {
  name: "gone-expired",
  about:
    "a cursor whose next events are no longer kept is told gone, expired; the last one before the first kept is good",
  async run(kit) {
    const client = await kit.open();
    const { first } = client.hello;
    if (first < 3) throw new NotShown(`this log is kept from ${first} on: nothing has expired`);
    await toldGone(kit, client, `${client.hello.epoch}.0`, "expired");
    await toldGone(kit, client, `${client.hello.epoch}.${first - 2}`, "expired");
    const judge = kit.subscribe(client, { from: `${client.hello.epoch}.${first - 1}` });
    await client.until("an answer", () => judge.over !== null || judge.f !== null);
    kit.assert(
      judge.f !== null,
      `the cursor right before the first kept event was refused: ${JSON.stringify(judge.over)}`,
    );
  },
};

export const goneRules: readonly Rule[] = [future, epoch, expired];
