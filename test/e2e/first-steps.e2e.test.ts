/** What a new user does first: start it, paste the command that the ready line gives, and watch the run end. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { within } from "./deadline.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { UpdatesClient } from "./updates-client.ts";

const checkout = fileURLToPath(new URL("../../", import.meta.url));

it("npm start: the curl of its ready line starts a run whose updates reach its end; SIGTERM to npm leaves nothing", async () => {
  const folder = await temporaryFolder();
  const args = ["start", "--", "--data", join(folder.path, "data"), "--port", "0"];
  const { MILLRACE_NATS_URL: _nats, MILLRACE_PORT: _port, ...env } = process.env;
  const server = spawn("npm", args, { cwd: checkout, env, stdio: ["ignore", "pipe", "inherit"] });
  let url = "";
  let natsUrl = "";
  const ended = new Promise<number | null>((resolve) => {
    server.on("exit", resolve);
  });
  try {
    const lines = createInterface({ input: server.stdout });
    const ready = await within(
      "the ready line",
      90_000,
      new Promise<string>((resolve, reject) => {
        lines.on("line", (line) => {
          if (line.startsWith("millrace is ready")) resolve(line);
        });
        server.on("close", (status) => {
          reject(new Error(`npm start ended with ${status}`));
        });
      }),
    );
    url = /http:\/\/127\.0\.0\.1:\d+/.exec(ready)?.[0] ?? "";
    const curl = /try: (curl .*)$/.exec(ready)?.[1] ?? "";
    expect(ready).toContain(url.replace("http", "ws"));
    expect(ready).toContain("durability default");

    const { id } = JSON.parse(await shell(curl)) as { id: string };
    const updates = await UpdatesClient.open(url, id);
    await updates.untilStatus("completed");
    expect(updates.updates.at(-1)).toMatchObject({ workflow_id: id, current_step: 3, total_steps: 3 });
    // Slow enough to be watched: the run was still under way when the socket opened.
    expect(updates.updates.length).toBeGreaterThan(2);
    updates.close();
    const row = JSON.parse(await shell(`curl -s ${url}/v1/workflows/${id}`)) as object;
    expect(row).toMatchObject({ id, type: "hello", status: "completed", output: { greeting: "Hello Ada" } });

    // The README's two programs: one defines, runs and awaits a workflow; the other follows, and resumes when run again.
    natsUrl = /nats:\/\/127\.0\.0\.1:\d+/.exec(ready)?.[0] ?? "";
    expect(await shell(`MILLRACE_NATS_URL=${natsUrl} node ${example("greet")}`)).toBe(
      "Hello Ada (greet-7/1/write#1)\n",
    );
    const cursorFile = join(folder.path, "cursor.txt");
    const first = await follow(url, cursorFile, "WorkflowCompleted greet-7");
    expect(first.filter((line) => line.endsWith("WorkflowStarted greet-7"))).toHaveLength(1);
    await shell(curl);
    const second = await follow(url, cursorFile, "WorkflowCompleted");
    const sequences = [...first, ...second].map((line) => Number(line.split(" ")[0]));
    expect(sequences).toEqual(sequences.toSorted((a, b) => a - b));
    expect(second.join("\n")).not.toContain("greet-7");
  } finally {
    server.kill("SIGTERM");
    const code = await within("it drains", 30_000, ended);
    const left = await Promise.all([url, natsUrl].filter((each) => each !== "").map(answers));
    await folder.remove();
    // npm's end is the server's end: a shell in between would have died alone and left server and broker behind.
    expect({ code, left }).toEqual({ code: 0, left: [false, false] });
  }
});

/** Whether anything listens at the address. */
async function answers(url: string): Promise<boolean> {
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

/** Runs the following example until it has said a line with this text and stored its cursor, then kills it. */
async function follow(url: string, cursorFile: string, until: string): Promise<string[]> {
  const before = await readFile(cursorFile, "utf8").catch(() => "");
  const child = spawn(process.execPath, [example("follow"), cursorFile, url], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const said: string[] = [];
  const found = new Promise<void>((resolve) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      said.push(line);
      if (line.includes(until)) resolve();
    });
  });
  await within(`follow says ${until}`, 20_000, found);
  const lastSequence = said.at(-1)?.split(" ")[0] ?? "";
  await expect
    .poll(() => readFile(cursorFile, "utf8").catch(() => before), { timeout: 10_000 })
    .toMatch(new RegExp(`\\.${lastSequence}$`));
  child.kill("SIGKILL");
  await once(child, "close");
  return said;
}

function example(name: string): string {
  return fileURLToPath(new URL(`../../examples/dist/${name}.js`, import.meta.url));
}

async function shell(command: string): Promise<string> {
  const child = spawn("sh", ["-c", command], { stdio: ["ignore", "pipe", "ignore"] });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString();
  });
  await within(
    command,
    20_000,
    new Promise((resolve) => {
      child.on("close", resolve);
    }),
  );
  return output;
}
