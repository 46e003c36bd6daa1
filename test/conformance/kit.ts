/** What a rule of the suite works with: the server under test, events of its own, and a network that can be broken. */
import { randomUUID } from "node:crypto";
import { compareStreams, noFaults } from "../e2e/compare-streams.ts";
import { eventually } from "../e2e/deadline.ts";
import type { SeededRandom } from "../e2e/seeded-random.ts";
import { ChainJudge } from "./chain-judge.ts";
import { FaultProxy } from "./fault-proxy.ts";
import type { Entry } from "./frame.ts";
import { HttpDriver } from "./http-driver.ts";
import { RawClient, type SubscribeOptions } from "./raw-client.ts";

export interface Target {
  /** `ws://host:port`. */
  readonly url: string;
  /** `http://host:port`. */
  readonly http: string;
}

export interface Rule {
  readonly name: string;
  /** What must hold, in one sentence. */
  readonly about: string;
  run(kit: Kit): Promise<void>;
}

/** Not a failure: this server or this run cannot show it. */
export class NotShown extends Error {}

export class RuleBroken extends Error {}

export class Kit {
  readonly target: Target;
  readonly driver: HttpDriver;
  readonly random: SeededRandom;
  readonly deadlineMs: number;
  /** A workflow type that nobody else uses: the rule's own corner of the log. */
  readonly type: string;
  readonly #clients = new Set<RawClient>();
  readonly #judges = new Set<ChainJudge>();
  readonly #cleanups: (() => Promise<void>)[] = [];

  constructor(target: Target, rule: string, random: SeededRandom, deadlineMs: number) {
    this.target = target;
    this.random = random;
    this.deadlineMs = deadlineMs;
    // Not of the seed: the same seed again on the same server must find no run of the last time.
    this.type = `${rule}-${randomUUID().slice(0, 8)}`;
    this.driver = new HttpDriver(target.http);
  }

  get streamUrl(): string {
    return `${this.target.url}/v1/stream`;
  }

  id(n: number): string {
    return `${this.type}-${n}`;
  }

  ids(count: number): string[] {
    return Array.from({ length: count }, (_, n) => this.id(n));
  }

  get mine(): { readonly type: readonly string[] } {
    return { type: [this.type] };
  }

  async open(hello?: object | null, url = this.streamUrl): Promise<RawClient> {
    const client = await RawClient.open(url, this.deadlineMs, hello);
    this.#clients.add(client);
    return client;
  }

  /** A judge whose breaches break the rule. */
  judge(): ChainJudge {
    const judge = new ChainJudge();
    this.#judges.add(judge);
    return judge;
  }

  /** `unseen`: the judge expects its losses, and the rule looks at its breaches itself. */
  subscribe(client: RawClient, options: SubscribeOptions = {}): ChainJudge {
    return client.subscribe({ filter: this.mine, ...options }, this.judge());
  }

  forgive(judge: ChainJudge): void {
    this.#judges.delete(judge);
  }

  async proxy(): Promise<FaultProxy> {
    const proxy = await FaultProxy.start(this.target.url, this.random.fork());
    this.cleanup(() => proxy.close());
    return proxy;
  }

  cleanup(what: () => Promise<void>): void {
    this.#cleanups.push(what);
  }

  /** Resolves once the subscription has an entry of this sequence, or stands beyond it. */
  async reaches(client: RawClient, judge: ChainJudge, sequence: number): Promise<void> {
    await client.until(`the entry ${sequence}`, () => judge.lastSequence >= sequence || judge.over !== null);
  }

  /** For what is seen on several connections. */
  async eventually(what: string, holds: () => boolean, deadlineMs = this.deadlineMs): Promise<void> {
    await eventually(what, deadlineMs, holds);
  }

  assert(holds: boolean, otherwise: string): void {
    if (!holds) throw new RuleBroken(otherwise);
  }

  /** All that was to come, once and in order. */
  exact(got: readonly Entry[], wanted: readonly Entry[], what: string): void {
    const line = (entry: Entry) => JSON.stringify(entry);
    const { lost, doubled, foreign, outOfOrder, first } = compareStreams(wanted.map(line), got.map(line));
    if (first === noFaults.first) return;
    throw new RuleBroken(
      `${what}: ${lost} lost, ${doubled} doubled, ${foreign} foreign, ${outOfOrder} out of order; ${first}`,
    );
  }

  /** What the judges saw. */
  breaches(): string[] {
    return [...this.#clients, ...this.#judges].flatMap(({ breaches }) => breaches);
  }

  async close(): Promise<void> {
    for (const client of this.#clients) client.cut();
    for (const cleanup of this.#cleanups.toReversed()) await cleanup();
  }
}
