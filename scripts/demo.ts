import { parseArgs } from "node:util";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { isMillraceError } from "@millrace/schemas";
import { resultTable } from "./demo/demo-result.ts";
import { createDisplay } from "./demo/display.ts";
import { runDemo } from "./demo/run-demo.ts";

const help = `npm run demo -- [options]

Runs one workflow per file of a folder and a group of externally driven ones through all parts of Millrace, kills the
engine and the stream server, cuts a client ten times and more, and compares what each client got with the log and
with SQLite. Exit code 0 only when everything held, 1 when something did not, 2 for a wrong option.

  --dir DIR        folder of text files (default: this checkout)
  --json           the result as one JSON object, the last line of standard output; its details on the line before
  --timeout SEC    give up after so many seconds (default 180)
  --keep           leave the temporary folder: data of the broker, SQLite, report, log of the processes
  --help           this text`;

const checkout = fileURLToPath(new URL("../../", import.meta.url));
/** Ctrl-C reaches the whole terminal group, and `npm run` passes it on to us once more: nobody asked twice. */
const echoMs = 500;
const signals = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
const failuresShown = 20;

const { values } = readOptions();
if (values.help) {
  console.log(help);
  process.exit(0);
}
const deadlineMs = Number(values.timeout) * 1_000;
if (!(deadlineMs >= 1_000 && deadlineMs <= 3_600_000))
  refuse(`--timeout ${values.timeout} is not 1 to 3600 seconds.`);
process.exitCode = await main();

function readOptions() {
  try {
    return parseArgs({
      options: {
        dir: { type: "string", default: checkout },
        json: { type: "boolean", default: false },
        timeout: { type: "string", default: "180" },
        keep: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error));
  }
}

function refuse(message: string): never {
  console.error(`${message}\n\n${help}`);
  process.exit(2);
}

async function main(): Promise<number> {
  const stop = new AbortController();
  let stoppedBy = 0;
  let stoppedAt = 0;
  for (const [name, number] of Object.entries(signals)) {
    process.on(name, () => {
      if (stoppedBy === 128 + number && performance.now() - stoppedAt < echoMs) return;
      // Once more: at once. What runs is on a leash.
      if (stoppedBy !== 0) process.exit(stoppedBy);
      stoppedBy = 128 + number;
      stoppedAt = performance.now();
      stop.abort(new Error(`Ended by ${name}.`));
    });
  }
  try {
    const options = { dir: resolve(values.dir), keep: values.keep, deadlineMs, signal: stop.signal };
    const result = await runDemo(options, createDisplay());
    const { failures } = result;
    // With --json, standard output is for the program that reads it.
    const show = values.json ? console.error : console.log;
    show(resultTable(result));
    for (const failure of failures.slice(0, failuresShown)) console.error(`FAILED: ${failure}`);
    if (failures.length > failuresShown)
      console.error(`FAILED: and ${failures.length - failuresShown} more.`);
    show(failures.length === 0 ? "Everything held." : `${failures.length} things did not hold.`);
    if (values.json) {
      const {
        workflows,
        steps,
        events,
        cuts,
        received,
        lost,
        duplicates,
        outOfOrder,
        p50Ms,
        p99Ms,
        ...details
      } = result;
      console.log(JSON.stringify({ details }));
      console.log(
        JSON.stringify({
          workflows,
          steps,
          events,
          cuts,
          received,
          lost,
          duplicates,
          outOfOrder,
          p50Ms,
          p99Ms,
        }),
      );
    }
    return failures.length === 0 ? 0 : 1;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const code = isMillraceError(error) ? ` (${error.code})` : "";
    console.error(`FAILED${code}: ${message}`);
    if (values.json) console.log(JSON.stringify({ failures: [message] }));
    return stoppedBy === 0 ? 1 : stoppedBy;
  }
}
