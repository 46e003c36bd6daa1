/**
 * `npm run conformance -- --url ws://127.0.0.1:8001 [--http http://127.0.0.1:8001] [--rule NAME]… [--seed N]`: the rules
 * of docs/protocol.md against any server. It makes runs of its own there through the HTTP API. Exit code 0: all hold.
 */
import { parseArgs } from "node:util";
import { allRules } from "./rules/rules.ts";
import { runSuite } from "./run-suite.ts";

const { values } = parseArgs({
  options: {
    url: { type: "string", default: "ws://127.0.0.1:8001" },
    http: { type: "string" },
    rule: { type: "string", multiple: true },
    seed: { type: "string" },
    concurrency: { type: "string", default: "4" },
  },
});
const url = new URL(values.url);
const http = values.http ?? `${url.protocol === "wss:" ? "https" : "http"}://${url.host}`;
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
const rules = allRules.filter(({ name }) => values.rule?.includes(name) ?? true);
if (rules.length === 0) {
  process.stderr.write(`No such rule. There are: ${allRules.map(({ name }) => name).join(", ")}\n`);
  process.exit(2);
}
process.stdout.write(
  `${rules.length} rules against ${url.origin.replace("null", `${url.protocol}//${url.host}`)}, seed ${seed}\n`,
);
const verdicts = await runSuite({
  target: { url: `${url.protocol}//${url.host}`, http },
  rules,
  seed,
  concurrency: Number(values.concurrency),
  onVerdict({ rule, about, outcome, why, ms }) {
    process.stdout.write(
      `${outcome.padEnd(9)}  ${rule} (${ms} ms): ${about}\n${why === "" ? "" : `           ${why}\n`}`,
    );
  },
});
const broken = verdicts.filter(({ outcome }) => outcome === "broken").length;
process.stdout.write(
  `${verdicts.length - broken} of ${verdicts.length} rules hold or were not shown, ${broken} broken; seed ${seed}\n`,
);
process.exitCode = broken === 0 ? 0 : 1;
