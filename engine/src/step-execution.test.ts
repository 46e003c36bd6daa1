import { createMemoryLog } from "@millrace/event-log";
import { expect, test } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";

test("S2: the code gets a step's output as it is stored, so that live it sees what a replay will give it", async () => {
  const millrace = await connect({ log: createMemoryLog() });
  try {
    const seen: unknown[] = [];
    const shared = { at: new Date(0), left: undefined, list: [1] };
    const storing = defineWorkflow({ type: "storing" }, async (ctx) => {
      seen.push(await ctx.step("give", () => shared));
      shared.list.push(2);
      await ctx.step("end", () => null);
    });
    await millrace.worker({ workflows: [storing] });
    const handle = await millrace.start(storing, null, { id: "s" });
    await handle.result();
    const stored = { at: "1970-01-01T00:00:00.000Z", list: [1] };
    // Not `toEqual` alone: it takes a key that is undefined for one that is not there.
    expect(seen).toStrictEqual([stored]);
    const [, given] = await millrace.log.load("s");
    expect(given?.events[0]).toMatchObject({ type: "StepCompleted", data: { output: stored } });
  } finally {
    await millrace.close();
  }
});
