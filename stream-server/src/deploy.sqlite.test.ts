/** What stands in `deploy/` names metrics that a server answers with. */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import * as v from "valibot";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { memoryWorld, type World } from "./testing/world.ts";

const read = (path: string) =>
  readFile(fileURLToPath(new URL(`../../deploy/${path}`, import.meta.url)), "utf8");

const Rules = v.object({
  groups: v.array(
    v.object({
      name: v.string(),
      rules: v.array(
        v.strictObject({
          alert: v.pipe(v.string(), v.regex(/^Millrace[A-Z]\w+$/)),
          expr: v.string(),
          for: v.optional(v.pipe(v.string(), v.regex(/^\d+[sm]$/))),
          labels: v.strictObject({ severity: v.picklist(["page", "ticket"]) }),
          annotations: v.strictObject({
            summary: v.string(),
            description: v.pipe(v.string(), v.regex(/Next: /)),
          }),
        }),
      ),
    }),
  ),
});
const Dashboard = v.object({
  uid: v.literal("millrace"),
  panels: v.array(
    v.object({
      id: v.number(),
      type: v.string(),
      title: v.pipe(v.string(), v.minLength(1)),
      datasource: v.optional(v.object({ uid: v.literal("${datasource}") })),
      targets: v.optional(
        v.array(v.object({ expr: v.string(), datasource: v.object({ uid: v.literal("${datasource}") }) })),
      ),
    }),
  ),
  templating: v.object({
    list: v.array(v.object({ name: v.string(), type: v.string(), query: v.unknown() })),
  }),
});

describe("deploy", () => {
  let world: World;
  /** Series that a query may name: of a histogram its three, not itself. */
  const series = new Set<string>(["up", "ALERTS"]);
  beforeAll(async () => {
    world = await memoryWorld();
    const text = await (await fetch(`${world.server.url}/metrics`)).text();
    for (const [, name = "", kind] of text.matchAll(/^# TYPE (\S+) (\w+)$/gm)) {
      if (kind !== "histogram") series.add(name);
      else for (const part of ["bucket", "sum", "count"]) series.add(`${name}_${part}`);
    }
  });
  afterAll(async () => {
    await world.close();
  });

  const unknownIn = (query: string) => metricsOf(query).filter((name) => !series.has(name));

  it("alerts.yml: every rule names metrics that exist, a severity, and the next step", async () => {
    const { groups } = v.parse(Rules, parse(await read("prometheus/alerts.yml")));
    const rules = groups.flatMap((group) => group.rules);
    for (const { alert, expr } of rules) {
      expect(metricsOf(expr), alert).not.toEqual([]);
      expect(unknownIn(expr), alert).toEqual([]);
    }
    const alerts = rules.map(({ alert }) => alert);
    expect(new Set(alerts).size).toBe(alerts.length);
    for (const needed of [
      "MillraceMessageLoss",
      "MillraceTailLag",
      "MillraceProjectorLag",
      "MillraceBufferedBytes",
      "MillraceBrokerLost",
      "MillraceCanaryLoss",
      "MillraceCanarySilent",
      "MillraceDeadLetters",
    ]) {
      expect(alerts).toContain(needed);
    }
    for (const { annotations } of rules)
      for (const [name] of annotations.description.matchAll(/\b(?:millrace|nodejs|process)_\w+/g))
        expect(series.has(name) || series.has(`${name}_bucket`), name).toBe(true);
  });

  it("alerts.test.yml: every case is of a rule and a metric that exist", async () => {
    const rules = new Set(
      v
        .parse(Rules, parse(await read("prometheus/alerts.yml")))
        .groups.flatMap((g) => g.rules.map((r) => r.alert)),
    );
    const text = await read("prometheus/alerts.test.yml");
    const tested = [...text.matchAll(/alertname="(\w+)"/g)].map(([, name = ""]) => name);
    expect(tested.filter((name) => !rules.has(name))).toEqual([]);
    expect(
      [...text.matchAll(/series: (\w+)/g)].map(([, name = ""]) => name).filter((name) => !series.has(name)),
    ).toEqual([]);
  });

  it("prometheus.yml loads the rules and scrapes under the job that they expect", async () => {
    const config = v.parse(
      v.object({
        rule_files: v.tuple([v.literal("alerts.yml")]),
        scrape_configs: v.tuple([v.object({ job_name: v.literal("millrace") })]),
      }),
      parse(await read("prometheus/prometheus.yml")),
    );
    expect(config.scrape_configs).toHaveLength(1);
  });

  it("millrace.json: every panel's query names metrics that exist, by the chosen data source", async () => {
    const { panels, templating } = v.parse(Dashboard, JSON.parse(await read("grafana/millrace.json")));
    const variables = templating.list.map(({ name }) => name);
    expect(variables).toEqual(["datasource", "job", "instance"]);
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    for (const { title, type, targets = [] } of panels) {
      if (type === "row") continue;
      expect(targets.length, title).toBeGreaterThan(0);
      for (const { expr } of targets) {
        expect(metricsOf(expr), title).not.toEqual([]);
        expect(unknownIn(expr), title).toEqual([]);
        for (const [, name = ""] of expr.matchAll(/\$(?!__)(\w+)/g)) expect(variables, title).toContain(name);
      }
    }
    // What the server measures and nobody looks at is not there, but for what helps only beside a log line.
    const shown = new Set(
      panels.flatMap(({ targets = [] }) => targets.flatMap(({ expr }) => metricsOf(expr))),
    );
    const unseen = [...series].filter((name) => name.startsWith("millrace_") && !shown.has(name));
    expect(unseen.filter((name) => !/_(sum|count)$/.test(name)).sort()).toEqual([
      "millrace_canary_up",
      "millrace_folded_states",
      "millrace_log_first_sequence",
      "millrace_projector_lag",
      "millrace_resumed_events_bucket",
      "millrace_ring_commits",
      "millrace_snapshots_open",
      "millrace_tail_lag",
    ]);
  });
});

/** Names of series in a PromQL query: what is left of it without strings, label lists, functions and words. */
function metricsOf(query: string): string[] {
  const bare = query
    .replaceAll(/\{[^}]*\}/g, "")
    .replaceAll(/\[[^\]]*\]/g, "")
    .replaceAll(/"[^"]*"/g, "")
    .replaceAll(/\b(by|without|on|ignoring)\s*\([^)]*\)/g, "");
  const words = new Set(["by", "or", "and", "unless", "on"]);
  return [...bare.matchAll(/\b([a-zA-Z_]\w*)\b(?!\s*\()/g)]
    .map(([, name = ""]) => name)
    .filter((name) => !words.has(name) && !aggregations.has(name));
}
const aggregations = new Set(["sum", "max", "min", "count", "topk", "rate", "increase"]);
