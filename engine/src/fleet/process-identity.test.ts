import { spawn } from "node:child_process";
import { once } from "node:events";
import { expect, test } from "vitest";
import { processIdentity } from "./process-identity.ts";

test("knows that a process which ended is gone, and that one which lives is not", async () => {
  const { isGone, pid } = processIdentity();
  const child = spawn(process.execPath, ["-e", "setTimeout(() => undefined, 60_000)"]);
  const childPid = child.pid ?? 0;
  expect([isGone(pid), isGone(childPid)]).toEqual([false, false]);
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
  expect(isGone(childPid)).toBe(true);
});

test("is the same place for every process beside it", async () => {
  const { place, host } = processIdentity();
  expect(place).toBe(processIdentity().place);
  expect(place).toContain(host);
});
