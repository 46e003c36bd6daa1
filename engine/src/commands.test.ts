import { createMemoryLog, type EventLog } from "@millrace/event-log";
import { MillraceError } from "@millrace/schemas";
import { expect, test } from "vitest";
import { connect } from "./connect.ts";

/** Stores what it is given; the acknowledgement of the n-th append of a step's beginning is lost. */
function losingAcknowledgement(lost: number): EventLog {
  const log = createMemoryLog();
  let begins = 0;
  return new Proxy(log, {
    get(target, key) {
      if (key === "append") {
        const append: EventLog["append"] = async (request) => {
          const result = await target.append(request);
          if (request.events[0]?.type === "StepStarted" && ++begins === lost)
            throw new MillraceError("append_in_doubt", "Lost by the test.");
          return result;
        };
        return append;
      }
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

test("what is in doubt on a kept state is told, and not decided anew on what it did itself", async () => {
  const millrace = await connect({ log: losingAcknowledgement(2) });
  try {
    await millrace.startByType("case", null, { id: "c", driver: "external" });
    const first = await millrace.driver.begin("c", "a");
    if (first.outcome !== "execute") throw new Error(`begin gave ${first.outcome}`);
    await millrace.driver.completeStep("c", "a", first.token, 1);
    await expect(millrace.driver.begin("c", "b")).rejects.toMatchObject({ code: "append_in_doubt" });
    const begun = (await millrace.log.load("c")).flatMap(({ events }) => events.map(({ type }) => type));
    expect(begun).toEqual(["WorkflowStarted", "StepStarted", "StepCompleted", "StepStarted"]);
  } finally {
    await millrace.close();
  }
});
