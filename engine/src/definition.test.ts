import { createMemoryLog } from "@millrace/event-log";
import { expect, test } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";

const doubled = defineWorkflow(
  {
    type: "doubled",
    input: {
      "~standard": {
        version: 1,
        vendor: "test",
        validate: (value) =>
          typeof value === "number" && value > 0
            ? { value: value * 2 }
            : { issues: [{ message: "Expected a positive number" }] },
      },
    },
  },
  (_ctx, input: number) => Promise.resolve(input),
);

test("a definition's start is refused where it is called when its input does not fit, and stores nothing", async () => {
  const millrace = await connect({ log: createMemoryLog() });
  try {
    // No worker here: what refuses is the start itself.
    await expect(millrace.start(doubled, -1, { id: "refused" })).rejects.toMatchObject({
      code: "invalid_input",
      message: expect.stringContaining("Expected a positive number") as string,
    });
    expect(await millrace.log.load("refused")).toEqual([]);
  } finally {
    await millrace.close();
  }
});

test("the log keeps the input as given, and the code gets what the schema makes of it", async () => {
  const millrace = await connect({ log: createMemoryLog() });
  try {
    await millrace.worker({ workflows: [doubled] });
    const handle = await millrace.start(doubled, 21, { id: "taken" });
    expect(await handle.result()).toBe(42);
    const [first] = await millrace.log.load("taken");
    expect(first?.events[0]).toMatchObject({ type: "WorkflowStarted", data: { input: 21 } });
  } finally {
    await millrace.close();
  }
});
