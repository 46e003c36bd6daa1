import Table from "cli-table3";
import { laneOf, type Fleet } from "@millrace/schemas";
import { missingShards } from "../core/missing-shards.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";

/** The live workers and their shards: a table, or with `--json` the server's answer `{sessions, groups, hosted}`. */
export async function fleet(api: ServerApi, output: Output): Promise<void> {
  const answer = (await api.get("/v1/fleet")) as Fleet;
  output.value(answer);
  if (output.json) return;
  if (answer.sessions.length === 0)
    return output.talk(`No worker is alive at ${api.url}: runs of code wait until one starts`);
  const totals = new Map(answer.groups.map(({ group, shardsTotal }) => [group, shardsTotal]));
  const table = new Table({
    head: ["session", "group", "host", "pid", "shards", "hosts", "since"],
    style: { head: [], border: [] },
  });
  for (const { session, group, host, pid, shards, draining, workflows, startedAt } of answer.sessions) {
    table.push([
      session,
      group,
      host,
      pid,
      `${shards.length}/${totals.get(group) ?? 0}${draining ? " draining" : ""}`,
      workflows.map(laneOf).join(" "),
      startedAt,
    ]);
  }
  output.text(table.toString());
  for (const line of missingShards(answer)) output.talk(line);
}
