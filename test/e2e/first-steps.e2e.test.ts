/** What a new user does first: start it, paste the command that the ready line gives, and watch the run end. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { within } from "./deadline.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { UpdatesClient } from "./updates-client.ts";

const programFile = fileURLToPath(new URL("../../cli/dist/main.js", import.meta.url));

it("starts with one command, and the curl of its ready line starts a run whose updates reach its end", async () => {
  const folder = await temporaryFolder();
  // As `npm start` runs it, with a port and a data folder of its own.
  const args = [programFile, "dev", "--data", join(folder.path, "data"), "--port", "0", "--examples"];
  const { MILLRACE_NATS_URL: _nats, MILLRACE_PORT: _port, ...env } = process.env;
  const server = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise<number | null>((resolve) => {
    server.on("exit", resolve);
  });
  try {
    const lines = createInterface({ input: server.stdout });
    const ready = await within(
      "the ready line",
      90_000,
      new Promise<string>((resolve) => {
        lines.once("line", resolve);
      }),
    );
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(ready)?.[0] ?? "";
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
  } finally {
    server.kill("SIGTERM");
    const code = await within("it drains", 30_000, ended);
    await folder.remove();
    expect(code).toBe(0);
  }
});

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
