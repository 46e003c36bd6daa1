/** Ten thousand clients of a thousand runs under churn, beside a bare uWebSockets.js server; then all cut at once. */
import { setTimeout as sleep } from "node:timers/promises";
import { percentile, round } from "../figures.ts";
import type { ClientsOptions, ClientsReport } from "./clients-part.ts";
import { Part, type Usage } from "./part.ts";
import type { Published, PublisherOptions } from "./publisher-part.ts";
import type { ServerPartOptions } from "./server-part.ts";
import { readMetric } from "./read-metric.ts";

export interface LoadOptions {
  readonly natsUrl: string;
  readonly folder: string;
  readonly clients: number;
  readonly seconds: number;
  readonly runs: number;
  readonly eventsPerS: number;
  /** Where the server's CPU profile goes; undefined: none is taken. */
  readonly profileFolder?: string | undefined;
  readonly say: (text: string) => void;
}

/** Our server and the bare one are measured in turns of so long, so that both meet the same neighbours. */
const turnS = 10;
const sampledMax = 100;
const churnShare = 0.01;
const slowShare = 0.01;
const herdWithinMsMax = 5_000;
/** Of a frame with one event of the publisher's. */
const frameBytes = 176;
const warmMs = 1_000;

export async function benchLoad(options: LoadOptions) {
  const { natsUrl, folder, clients, runs, eventsPerS, seconds, profileFolder, say } = options;
  const namespace = "load";
  const path = `${folder}/load.sqlite`;
  const parts: Part[] = [];
  const part = (file: string, args: readonly string[] = [], execArgv: readonly string[] = []): Part => {
    const started = new Part(file, args, execArgv);
    parts.push(started);
    return started;
  };
  try {
    const publisher = part("publisher-part.js");
    await publisher.ask("open", { natsUrl, namespace, prefix: "load", runs } satisfies PublisherOptions);
    const projector = part("projector-part.js", [natsUrl, namespace, path]);
    await projector.ask("ready");
    const serverOptions: ServerPartOptions = { natsUrl, namespace, path, port: 0 };
    const server = part(
      "server-part.js",
      [JSON.stringify(serverOptions)],
      [
        "--expose-gc",
        ...(profileFolder === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profileFolder}`]),
      ],
    );
    const port = await server.ask<number>("port");
    // While the bare server is measured, broker, a publisher and a projector work as they do beside ours.
    const beside = part("publisher-part.js");
    await beside.ask("open", {
      natsUrl,
      namespace: "beside",
      prefix: "beside",
      runs,
    } satisfies PublisherOptions);
    const besideProjector = part("projector-part.js", [natsUrl, "beside", `${folder}/beside.sqlite`]);
    await besideProjector.ask("ready");
    const barePublisher = part("publisher-part.js");
    const bare = part("bare-part.js", [String(frameBytes)], ["--expose-gc"]);
    const barePort = await bare.ask<number>("port");
    await barePublisher.ask("openBare", { port: barePort, runs });

    const sampled = Math.min(sampledMax, Math.ceil(clients / 10));
    const own = { prefix: "load", runs, port };
    const bulk = part("clients-part.js");
    const samples = part("clients-part.js");
    const bareClients = part("clients-part.js");
    say(`Connecting ${clients} clients…`);
    const before = await server.ask<Usage>("usage", true);
    await bulk.ask("connect", {
      ...own,
      count: clients - sampled,
      first: sampled,
      network: 1,
    } satisfies ClientsOptions);
    await samples.ask("connect", {
      ...own,
      count: sampled,
      first: 0,
      sampled: true,
      network: 2,
    } satisfies ClientsOptions);
    const after = await server.ask<Usage>("usage", true);
    say(`Connecting ${clients} clients of the bare server…`);
    const bareBefore = await bare.ask<Usage>("usage", true);
    await bareClients.ask("connect", {
      ...own,
      port: barePort,
      count: clients,
      first: 0,
      bare: true,
      network: 3,
    } satisfies ClientsOptions);
    const bareAfter = await bare.ask<Usage>("usage", true);

    const rounds = Math.ceil(seconds / turnS);
    const ours = new Share(server, [publisher], [bulk, samples]);
    const theirs = new Share(bare, [barePublisher, beside], [bareClients]);
    const latenciesMs: number[] = [];
    const measure = async (share: Share): Promise<void> => {
      for (const each of share.publishers) await each.ask("start", eventsPerS);
      const [driver] = share.drivers;
      await driver?.ask("slow", Math.ceil(clients * slowShare));
      await driver?.ask("churn", clients * churnShare);
      await sleep(warmMs);
      await samples.ask("latencies");
      await share.begin();
      await sleep((seconds * 1_000) / rounds);
      await share.end();
      if (share === ours) latenciesMs.push(...(await samples.ask<number[]>("latencies")));
      for (const each of share.publishers) await each.ask("stop");
      await driver?.ask("calm");
    };
    for (let turn = 1; turn <= rounds; turn++) {
      say(`${eventsPerS} events/s to ${clients} clients, round ${turn} of ${rounds}…`);
      await measure(ours);
      await measure(theirs);
    }
    for (const each of [bareClients, bare, barePublisher, beside, besideProjector]) await each.stop();

    say("Cutting all of them at once…");
    await publisher.ask("start", eventsPerS);
    // Ten thousand within 5 s; fewer in proportion.
    const herdWithinMs = Math.min(herdWithinMsMax, clients / 2);
    const readsBefore = await readsBeyondRing(port);
    const [herdLiveMs = 0] = (
      await Promise.all([bulk, samples].map(async (each) => await each.ask<number>("herd", herdWithinMs)))
    ).sort((a, b) => b - a);
    const herdBrokerReads = (await readsBeyondRing(port)) - readsBefore;
    await publisher.ask("stop");

    say("Checking every client…");
    const { sequences, appended } = await publisher.ask<Published>("published");
    const reports = await Promise.all(
      [bulk, samples].map(async (each) => await each.ask<ClientsReport>("finish", sequences)),
    );
    const sum = (pick: (report: ClientsReport) => number) =>
      reports.reduce((total, report) => total + pick(report), 0);
    return {
      clients,
      appended,
      lost: sum(({ lost, wrong }) => lost + wrong),
      duplicates: sum(({ duplicates }) => duplicates),
      chainBreaks: sum(({ breaks }) => breaks),
      reconnects: sum((report) => report.reconnects),
      closesByServer: sum(({ closes }) => closes),
      refusal: reports.find(({ firstRefusal }) => firstRefusal !== null)?.firstRefusal ?? null,
      p50Ms: round(percentile(latenciesMs, 0.5), 1),
      p99Ms: round(percentile(latenciesMs, 0.99), 1),
      samples: latenciesMs.length,
      deliveredPerS: round(ours.received / ours.wallS),
      deliveredPerCoreS: round(ours.received / ours.cpuS),
      bareDeliveredPerCoreS: round(theirs.received / theirs.cpuS),
      serverCpuUsPerDelivery: round((ours.cpuS * 1e6) / ours.received, 2),
      bareCpuUsPerDelivery: round((theirs.cpuS * 1e6) / theirs.received, 2),
      frameBytes: round(ours.receivedBytes / ours.received),
      heapBytesPerConnection: round((after.heapBytes - before.heapBytes) / clients),
      rssBytesPerConnection: round((after.rssBytes - before.rssBytes) / clients),
      bareHeapBytesPerConnection: round((bareAfter.heapBytes - bareBefore.heapBytes) / clients),
      herdLiveMs: round(herdLiveMs),
      herdBrokerReads,
    };
  } finally {
    await Promise.all(parts.map(async (each) => each.stop()));
  }
}

/** Pages that the server did not have in memory: read from the log, or from the projection beside it. */
async function readsBeyondRing(port: number): Promise<number> {
  const sources = ["broker", "projection"];
  const counts = await Promise.all(
    sources.map(async (source) => readMetric(port, "millrace_catchup_reads_total", `source="${source}"`)),
  );
  return counts.reduce((sum, count) => sum + count, 0);
}

/** One server's work over its windows. */
class Share {
  readonly publishers: readonly Part[];
  readonly drivers: readonly Part[];
  readonly #server: Part;
  received = 0;
  receivedBytes = 0;
  cpuS = 0;
  wallS = 0;

  constructor(server: Part, publishers: readonly Part[], drivers: readonly Part[]) {
    this.#server = server;
    this.publishers = publishers;
    this.drivers = drivers;
  }

  async begin(): Promise<void> {
    await this.#add(-1);
  }

  async end(): Promise<void> {
    await this.#add(1);
  }

  async #add(sign: 1 | -1): Promise<void> {
    const { cpuUs } = await this.#server.ask<Usage>("usage", false);
    this.cpuS += (sign * cpuUs) / 1e6;
    this.wallS += (sign * performance.now()) / 1_000;
    for (const driver of this.drivers) {
      const counts = await driver.ask<{ received: number; receivedBytes: number }>("counts");
      this.received += sign * counts.received;
      this.receivedBytes += sign * counts.receivedBytes;
    }
  }
}
