/** `dev --split`: one process per part, each killed without warning, and at last the supervisor itself. */
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { WorkflowRow } from "@millrace/schemas";
import {
  eventually,
  isAlive,
  jsonLines,
  millrace,
  Server,
  temporaryFolder,
  type ReadyValue,
} from "./testing/cli-process.ts";

describe("millrace dev --split", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let server: Server;
  let ready: ReadyValue;
  const pids = new Map<string, number>();
  const client = (...args: string[]) => millrace([...args, "--url", ready.url, "--json"]);

  beforeAll(async () => {
    folder = await temporaryFolder();
    server = new Server(["dev", "--split", "--data", folder.path, "--port", "0", "--examples"]);
    ready = await server.ready();
    for (const [part, pid] of Object.entries(ready.parts)) pids.set(part, pid);
  });
  afterAll(async () => {
    await server.kill();
    await folder.remove();
  });

  it("runs each part in a process of its own", () => {
    expect([...pids.keys()]).toEqual(["broker", "engine", "projector", "stream-server"]);
    expect(new Set([...pids.values(), ready.pid]).size).toBe(5);
    expect([...pids.values()].every(isAlive)).toBe(true);
  });

  it("S1, S3: restarts a part that was killed, on the same port, and a run started before completes", async () => {
    jsonLines(await client("start", "hello", "--id", "before", "--input", '{"name":"Ada","stepMs":1500}'));
    const watching = new Server([
      "watch",
      "before",
      "--from",
      "start",
      "--until",
      "closed",
      "--url",
      ready.url,
    ]);
    await watching.line(({ type }) => type === "WorkflowStarted", 20_000);
    for (const part of ["engine", "projector", "stream-server", "broker"])
      process.kill(pids.get(part) ?? 0, "SIGKILL");
    const parts = ["engine", "projector", "stream-server"];
    const back = await Promise.all(
      parts.map((part) => server.line(({ restarted }) => restarted === part, 30_000)),
    );
    for (const [index, part] of parts.entries()) {
      const pid = Number(back[index]?.["pid"]);
      expect(pid).not.toBe(pids.get(part));
      pids.set(part, pid);
    }
    expect(await watching.ended).toBe(0);
    const events = watching.lines as { type: string; sequence: number; data: { name?: string } }[];
    const completed = events.filter(({ type }) => type === "StepCompleted").map(({ data }) => data.name);
    expect(completed).toEqual(["look up", "compose", "deliver"]);
    expect(events.at(-1)?.type).toBe("WorkflowCompleted");
    const [row] = jsonLines<WorkflowRow>(
      await client("show", "before", "--min", String(events.at(-1)?.sequence)),
    );
    expect(row).toMatchObject({ status: "completed", output: { greeting: "Hello Ada" } });
  });

  it("S4: leaves no part and no broker when the supervisor itself is killed", async () => {
    const port = Number(new URL(ready.natsUrl).port);
    server.child.kill("SIGKILL");
    await server.ended;
    const deadlineMs = 10_000;
    await eventually("every part is gone", deadlineMs, () => {
      pids.delete("broker"); // Killed above: the present one is known by its port only.
      return [...pids.values()].every((pid) => !isAlive(pid));
    });
    await eventually("the broker is gone", deadlineMs, () => refuses(port));
    // And nothing holds the folder: the next start has it at once.
    server = new Server(["dev", "--split", "--data", folder.path, "--port", "0", "--examples"]);
    ready = await server.ready();
    expect(jsonLines<WorkflowRow>(await client("show", "before"))[0]?.status).toBe("completed");
  });

  it("S5: drains every part in order on SIGTERM", async () => {
    server.child.kill("SIGTERM");
    expect(await Promise.race([server.ended, delay(30_000, "late", { ref: false })])).toBe(0);
    expect(Object.values(ready.parts).filter(isAlive)).toEqual([]);
  });
});

async function refuses(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(false);
    });
    socket.on("error", () => {
      resolve(true);
    });
  });
}
