/**
 * Runs a Node program, `node leash.js PROGRAM [ARGUMENT...]`, and ends it when whoever started this process over a
 * channel is gone, however that one ended: `kill -9` cannot be caught, but the channel closes.
 */
import { spawn } from "node:child_process";

const child = spawn(process.execPath, process.argv.slice(2), { stdio: ["ignore", "inherit", "inherit"] });
const end = (): void => {
  child.kill("SIGTERM");
};
process.on("SIGTERM", end);
process.on("disconnect", end);
// The holder may be gone before this process has loaded.
if (!process.connected) end();
child.on("error", (error) => {
  console.error(`${process.argv[2]} cannot be started: ${error.message}`);
  process.exit(1);
});
child.on("exit", (code) => process.exit(code ?? 1));
