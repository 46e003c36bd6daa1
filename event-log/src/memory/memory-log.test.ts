import { ulid } from "ulid";
import { expect, test, vi } from "vitest";
import { createMemoryLog, createMemoryServer } from "../index.ts";

test("two connections to one server see one log", async () => {
  const server = createMemoryServer();
  const writer = createMemoryLog({ server });
  const reader = createMemoryLog({ server });
  const seen: number[] = [];
  await reader.follow({
    after: 0,
    onCommit: (commit) => void seen.push(commit.sequence),
  });
  await writer.append({
    commitId: ulid(),
    workflowId: "order-1",
    type: "order",
    expected: "new",
    events: [{ type: "WorkflowStarted", data: { version: "1", input: null, driver: "code" } }],
  });
  await vi.waitFor(() => expect(seen).toEqual([1]));
  expect((await reader.load("order-1")).map((commit) => commit.events[0]?.type)).toEqual(["WorkflowStarted"]);
});
