/** `dev` in one process and the client commands against it. */
import { writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { EventRow, Fleet, Page, WorkflowRow } from "@millrace/schemas";
import {
  eventually,
  examplesFolder,
  isAlive,
  jsonError,
  jsonLines,
  millrace,
  run,
  Server,
  temporaryFolder,
  type ReadyValue,
} from "./testing/cli-process.ts";

describe("millrace dev", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let dataDir: string;
  let server: Server;
  let ready: ReadyValue;
  const client = (...args: string[]) => millrace([...args, "--url", ready.url, "--json"]);

  beforeAll(async () => {
    folder = await temporaryFolder();
    dataDir = join(folder.path, "data");
    server = new Server(["dev", "--data", dataDir, "--port", "0", "--examples"]);
    ready = await server.ready();
  });
  afterAll(async () => {
    await server.kill();
    await folder.remove();
  });

  it("says on one line where everything is", () => {
    expect(ready).toMatchObject({ durability: "default", dataDir, pid: server.child.pid });
    expect(ready.url).toMatch(/^http:\/\/127\.0\.0\.1:[1-9]\d*$/);
    expect(ready.streamUrl).toBe(`${ready.url.replace("http", "ws")}/v1/stream`);
    expect(ready.natsUrl).toMatch(/^nats:\/\/127\.0\.0\.1:\d+$/);
    expect(Object.keys(ready.parts)).toEqual(["broker", "engine", "projector", "stream-server"]);
    expect(Object.values(ready.parts).every(isAlive)).toBe(true);
  });

  it("refuses what cannot run here, each with its code and the exit code for the machine", async () => {
    const other = join(folder.path, "other");
    const file = join(folder.path, "file");
    await writeFile(file, "");
    const port = new URL(ready.url).port;
    const oldBroker = join(folder.path, "old-nats-server");
    await writeFile(oldBroker, "#!/bin/sh\necho nats-server: v2.9.0\n", { mode: 0o755 });
    const [second, portInUse, unwritable, fileAsFolder, noBroker, tooOld] = await Promise.all([
      millrace(["dev", "--data", dataDir, "--port", "0", "--json"]),
      millrace(["dev", "--data", other, "--port", port, "--json"]),
      millrace(["dev", "--data", join(file, "data"), "--port", "0", "--json"]),
      millrace(["dev", "--data", file, "--port", "0", "--json"]),
      millrace(["dev", "--data", join(folder.path, "none"), "--port", "0", "--json"], {
        MILLRACE_NATS_SERVER: join(folder.path, "missing"),
      }),
      millrace(["dev", "--data", join(folder.path, "old"), "--port", "0", "--json"], {
        MILLRACE_NATS_SERVER: oldBroker,
      }),
    ]);
    expect(
      [second, portInUse, unwritable, fileAsFolder, noBroker, tooOld].map((each) => [
        each.code,
        jsonError(each).code,
      ]),
    ).toEqual([
      [6, "data_folder_in_use"],
      [6, "port_in_use"],
      [6, "data_folder_not_writable"],
      [6, "data_folder_not_writable"],
      [6, "broker_not_found"],
      [6, "broker_version_unsupported"],
    ]);
    expect(jsonError(second).message).toContain(dataDir);
    expect(jsonError(portInUse).message).toContain(port);
    // What one of them had begun it has ended: the folder can be used at once.
    const again = new Server(["dev", "--data", other, "--port", "0"]);
    await again.ready();
    await again.kill();
    expect(again.child.exitCode).toBe(0);
  });

  it("runs the examples hello and order, and waits for their ends", async () => {
    const [hello, order] = await Promise.all([
      client("start", "hello", "--id", "hello-1", "--input", '{"name":"Ada","stepMs":100}', "--wait"),
      client("start", "order", "--id", "order-1", "--wait"),
    ]);
    expect(jsonLines<WorkflowRow>(hello)[0]).toMatchObject({
      status: "completed",
      currentStep: 3,
      totalSteps: 3,
      output: { greeting: "Hello Ada" },
    });
    const row = jsonLines<WorkflowRow>(order)[0];
    expect(row).toMatchObject({ status: "completed", output: { status: "shipped", attempts: 3 } });
    expect(row?.steps.map(({ name, attempt }) => [name, attempt])).toEqual([
      ["reserve", 1],
      ["charge", 3],
      ["ship", 1],
    ]);
  });

  it("tells by the exit code that the run waited for did not complete", async () => {
    const [late, failed] = await Promise.all([
      client("start", "order", "--id", "order-late", "--input", '{"shippingMs":60000}', "--wait"),
      client("start", "order", "--id", "order-failed", "--input", '{"item":"unobtainium"}', "--wait"),
    ]);
    const [row] = jsonLines<WorkflowRow>(late);
    expect(row).toMatchObject({ status: "completed", output: { status: "refunded" } });
    expect(row?.steps.find(({ name }) => name === "ship")?.status).toBe("timed_out");
    expect(failed.code).toBe(7);
    expect(JSON.parse(failed.stdout)).toMatchObject({
      status: "failed",
      error: { message: expect.stringContaining("unobtainium") },
    });
  });

  it("is driven from outside by the examples in Node and in a shell, which go on where they were", async () => {
    const driver = (file: string, args: readonly string[]) => run(file, args, { MILLRACE_URL: ready.url });
    const node = [join(examplesFolder, "dist/driver.js"), "permit-node"];
    const shell = [join(examplesFolder, "driver.sh"), "permit-shell"];
    const [first, second] = await Promise.all([driver(process.execPath, node), driver("sh", shell)]);
    expect([first.code, first.stdout]).toEqual([
      0,
      "check: done in attempt 1\ndecide: done in attempt 1\npermit-node: completed\n",
    ]);
    expect([second.code, second.stdout]).toEqual([0, "check: done\ndecide: done\npermit-shell: completed\n"]);
    const rows = await Promise.all(["permit-node", "permit-shell"].map((id) => client("show", id)));
    for (const row of rows)
      expect(jsonLines<WorkflowRow>(row)[0]).toMatchObject({ status: "completed", totalSteps: 2 });
  });

  it("starts, lists, shows, prints the history, and cancels", async () => {
    const started = jsonLines<{ id: string; created: boolean; sequence: number }>(
      await client(
        "start",
        "ext",
        "--id",
        "ext-1",
        "--driver",
        "external",
        "--steps",
        "a,b",
        "--input",
        '{"n":1}',
      ),
    )[0];
    expect(started).toMatchObject({ id: "ext-1", created: true });
    const [shown, listed] = await Promise.all([
      client("show", "ext-1", "--min", String(started?.sequence)),
      client("list", "--type", "ext", "--limit", "5"),
    ]);
    expect(jsonLines(shown)[0]).toMatchObject({
      status: "running",
      input: { n: 1 },
      whyNotMoving: "waits for a driver to begin step a",
    });
    expect(jsonLines<Page<WorkflowRow>>(listed)[0]?.items.map(({ id }) => id)).toEqual(["ext-1"]);
    const [cancelled] = jsonLines<{ sequence: number }>(
      await client("cancel", "ext-1", "--reason", "a test"),
    );
    expect(cancelled?.sequence).toBeGreaterThan(started?.sequence ?? 0);
    await client("show", "ext-1", "--min", String(cancelled?.sequence));
    const [whole, first] = await Promise.all([
      client("history", "ext-1"),
      client("history", "ext-1", "--limit", "1"),
    ]);
    const events = jsonLines<EventRow>(whole);
    expect(events[0]).toMatchObject({ type: "WorkflowStarted", sequence: started?.sequence, index: 0 });
    expect(events.at(-1)).toMatchObject({ data: { reason: "a test" } });
    expect(jsonLines(first)).toEqual(events.slice(0, 1));
  });

  it("ends watch at the end of a run, and goes on from the cursor that it says", async () => {
    jsonLines(await client("start", "hello", "--id", "watched", "--input", '{"stepMs":50}', "--wait"));
    const whole = await client("watch", "watched", "--from", "start", "--until", "closed");
    const items = jsonLines<{ kind: string; type: string; cursor: string; sequence: number }>(whole);
    expect(items.map(({ kind }) => kind)).toEqual(items.map(() => "event"));
    expect([items[0]?.type, items.at(-1)?.type]).toEqual(["WorkflowStarted", "WorkflowCompleted"]);
    const [epoch, said] = /--from ([0-9a-f]+)\.(\d+)/.exec(whole.stderr)?.slice(1) ?? [];
    expect(items.at(-1)?.cursor.split(".")[0]).toBe(epoch);
    expect(Number(said)).toBeGreaterThanOrEqual(items.at(-1)?.sequence ?? Number.NaN);

    const middle = items.find(({ type }) => type === "StepCompleted");
    const [rest, rows] = await Promise.all([
      client("watch", "watched", "--from", String(middle?.cursor), "--until", "closed"),
      client(
        "watch",
        "watched",
        "--from",
        "start",
        "--until",
        "closed",
        "--shape",
        "state",
        "--event",
        "WorkflowCompleted",
      ),
    ]);
    const expected = items.filter(({ sequence }) => sequence > Number(middle?.cursor.split(".")[1]));
    expect(jsonLines(rest)).toEqual(expected);
    expect(jsonLines(rows)).toMatchObject([{ kind: "state", row: { status: "completed" } }]);
  });

  it("prints on Ctrl-C the cursor to go on from", async () => {
    const watching = new Server(["watch", "--from", "start", "--url", ready.url]);
    const first = await watching.line(({ kind }) => kind === "event", 20_000);
    watching.child.kill("SIGINT");
    expect(await watching.ended).toBe(0);
    const cursor = /cursor ([0-9a-f]+\.\d+)/.exec(watching.stderr)?.[1];
    expect(cursor?.split(".")[0]).toBe(String(first["cursor"]).split(".")[0]);
  });

  it("shows the fleet, and why a run of a type that nobody hosts does not move", async () => {
    const fleet = await client("fleet");
    const workflows = expect.arrayContaining([expect.objectContaining({ type: "hello" })]) as unknown;
    expect(jsonLines<Fleet>(fleet)[0]).toMatchObject({
      sessions: [{ pid: ready.pid, draining: false, workflows }],
      groups: [{ sessions: 1, shardsHeld: 64, shardsTotal: 64 }],
    });
    const table = await millrace(["fleet", "--url", ready.url]);
    expect(table.stdout).toMatch(/64\/64.*hello@1/);
    const start = await client("start", "ghost", "--id", "ghost-1", "--allow-unregistered");
    const { sequence = 0 } = jsonLines<{ readonly sequence: number }>(start)[0] ?? {};
    const show = await client("show", "ghost-1", "--min", String(sequence));
    const [row] = jsonLines<{ readonly whyNotMoving: string }>(show);
    expect(row?.whyNotMoving).toMatch(/^no worker hosts type ghost \(version 1\): start one/);
  });

  it("says what is wrong by code and exit code", async () => {
    const finished = await Promise.all([
      client("show", "nobody"),
      client("start", "nobody-registered-this"),
      client("start", "hello", "--input", "{"),
      client("watch", "--from", "ffffffff.1"),
      client("watch", "--from", "nonsense"),
      millrace(["list", "--url", "http://127.0.0.1:1", "--json"]),
      millrace(["watch", "--url", "http://127.0.0.1:1", "--json"]),
    ]);
    expect(finished.map((each) => [each.code, jsonError(each).code, each.stdout])).toEqual([
      [3, "workflow_not_found", ""],
      [3, "workflow_type_unknown", ""],
      [2, "invalid_json", ""],
      [4, "cursor_epoch", ""],
      [2, "cursor_malformed", ""],
      [5, "unavailable", ""],
      [5, "unavailable", ""],
    ]);
    expect(finished.map(({ stderr }) => /\n\s+at /.test(stderr))).toEqual(finished.map(() => false));
    const [unknownOption, withStack] = await Promise.all([
      millrace(["list", "--nonsense"]),
      millrace(["list", "--url", "http://127.0.0.1:1"], { MILLRACE_LOG: "debug" }),
    ]);
    expect(unknownOption.code).toBe(2);
    expect(unknownOption.stderr).toMatch(/^millrace: invalid_request: unknown option '--nonsense'.*\n$/);
    const missing = await millrace(["show", "--json"]);
    expect([missing.code, jsonError(missing).code]).toEqual([2, "invalid_request"]);
    expect(withStack.stderr).toMatch(/millrace: unavailable: [\s\S]*\n\s+at /);
  });

  it("finds everything in order with doctor, also where nothing runs", async () => {
    const [found, empty] = await Promise.all([
      millrace(["doctor", "--data", dataDir, "--json"]),
      millrace(["doctor", "--data", join(folder.path, "nothing"), "--url", "http://127.0.0.1:1", "--json"]),
    ]);
    const [report] = jsonLines<{ ok: boolean; checks: { name: string; status: string; found: string }[] }>(
      found,
    );
    expect(report?.checks.map(({ name, status }) => `${name}: ${status}`)).toEqual([
      "node: ok",
      "uWebSockets.js: ok",
      "better-sqlite3: ok",
      "data folder: ok",
      "broker: ok",
      "event log: ok",
      "event log: ok",
      "server: ok",
    ]);
    expect(report?.checks.find(({ name }) => name === "event log")?.found).toContain("durability default");
    const [nothing] = jsonLines<{ ok: boolean; checks: { name: string; status: string }[] }>(empty);
    expect(nothing?.checks.filter(({ status }) => status === "warn").map(({ name }) => name)).toEqual([
      "data folder",
      "event log",
      "server",
    ]);
  });

  it("starts no broker when there is one at MILLRACE_NATS_URL", async () => {
    const args = ["serve", "--data", join(folder.path, "external"), "--port", "0", "--namespace", "other"];
    const external = new Server(args, { MILLRACE_NATS_URL: ready.natsUrl });
    const said = await external.ready();
    expect(said).toMatchObject({ durability: "external", natsUrl: ready.natsUrl });
    expect(Object.keys(said.parts)).toEqual(["engine", "projector", "stream-server"]);
    const list = await millrace(["list", "--url", said.url, "--json"]);
    expect(jsonLines(list)).toEqual([{ items: [], next: null }]);
    await external.kill();
    expect(external.child.exitCode).toBe(0);
  });

  it("drains on SIGTERM: the step in hand is recorded, nothing is left running", async () => {
    // Connected before the run starts, so that the signal comes early in the second step.
    const watching = new Server(["watch", "--from", "start", "--url", ready.url]);
    await watching.line(({ kind }) => kind === "event", 20_000);
    jsonLines(await client("start", "hello", "--id", "drained", "--input", '{"stepMs":1500}'));
    await watching.line(
      ({ type, workflowId }) => type === "StepCompleted" && workflowId === "drained",
      20_000,
    );
    server.child.kill("SIGTERM");
    expect(await server.ended).toBe(0);
    const endedAt = new Date().toISOString();
    await watching.kill();
    await eventually("the broker is gone", 5_000, () => !isAlive(ready.parts["broker"] ?? 0));
    expect(await listens(ready.natsUrl)).toBe(false);

    server = new Server(["dev", "--data", dataDir, "--port", "0", "--examples"]);
    ready = await server.ready();
    const ended = await client("watch", "drained", "--from", "start", "--until", "closed");
    const events = jsonLines<{ type: string; at: string; data: { name: string } }>(ended);
    const steps = events.filter(({ type }) => type === "StepCompleted");
    expect(steps.map(({ data, at }) => [data.name, at < endedAt])).toEqual([
      ["look up", true],
      ["compose", true],
      ["deliver", false],
    ]);
  });
});

describe("Ctrl-C in a terminal", () => {
  it("that npm passes on once more drains all the same: exit code 0", async () => {
    const own = await temporaryFolder();
    const idle = new Server(["dev", "--data", join(own.path, "data"), "--port", "0"]);
    try {
      await idle.ready();
      // Several, since signals that come while one waits are one.
      for (let sent = 0; sent < 5; sent++) {
        idle.child.kill("SIGINT");
        await delay(2);
      }
      expect(await idle.ended).toBe(0);
    } finally {
      idle.child.kill("SIGKILL");
      await own.remove();
    }
  });

  it("that comes again a while later ends at once, with 130", async () => {
    const own = await temporaryFolder();
    const busy = new Server(["dev", "--data", join(own.path, "data"), "--port", "0", "--examples"]);
    try {
      const { url } = await busy.ready();
      const watching = new Server(["watch", "--from", "start", "--url", url]);
      const input = '{"stepMs":3000}';
      jsonLines(await millrace(["start", "hello", "--input", input, "--url", url, "--json"]));
      await watching.line(({ type }) => type === "StepCompleted", 20_000);
      await watching.kill();
      busy.child.kill("SIGINT");
      // The second step holds the drain for 3 s; asked again, the server does not wait for it.
      await eventually("it ends", 10_000, () => {
        if (busy.child.exitCode === null) busy.child.kill("SIGINT");
        return busy.child.exitCode !== null;
      });
      expect(busy.child.exitCode).toBe(130);
    } finally {
      busy.child.kill("SIGKILL");
      await busy.ended;
      await own.remove();
    }
  });
});

async function listens(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = connect(Number(port), hostname, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => {
      resolve(false);
    });
  });
}
