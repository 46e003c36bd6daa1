/**
 * Old history from the broker, on a node without a projection.
 *
 * Owns: nothing that outlives a read. Does not own: positions, the histories that states are folded from.
 *
 * B1 A page speaks for no more than `ringFrom - 1` as it was before the request: what comes after it is the ring's.
 * B2 The log's first sequence is asked for after the read: a page that lost its beginning to a purge is not taken for
 *    one without it.
 * B3 No consumer is made, for nobody: each page is one request and its answer.
 *
 * Tested by `broker-source.sqlite.test.ts` and, against a broker, `broker-source.nats.test.ts`.
 */
import type { EventLog, StoredCommit } from "@millrace/event-log";
import { isMillraceError, matchesRun, MillraceError, scheduleType, type Filter } from "@millrace/schemas";
import type { RequestSource, SourcePage } from "./commit-source.ts";
import type { RunCommit } from "./core/run-commit.ts";
import type { Seam } from "./core/seam.ts";
import type { Subscription } from "./core/subscription.ts";
import type { HubSettings } from "./hub-settings.ts";
import type { KnownLog } from "./known-log.ts";
import type { StreamServerLogger } from "./logger.ts";
import type { Metrics } from "./metrics.ts";
import type { RunHistories } from "./run-histories.ts";
import { toRunCommit } from "./to-run-commit.ts";

export interface BrokerSourceOptions {
  readonly log: EventLog;
  readonly known: KnownLog;
  readonly seam: Seam;
  readonly histories: RunHistories;
  readonly settings: HubSettings;
  readonly metrics: Metrics;
  readonly logger: StreamServerLogger;
}

export class BrokerSource implements RequestSource {
  readonly name = "broker";
  readonly #options: BrokerSourceOptions;

  constructor(options: BrokerSourceOptions) {
    this.#options = options;
  }

  async read(filter: Filter, after: number): Promise<SourcePage> {
    const { log, known, seam, settings, metrics, logger } = this.#options;
    const upTo = seam.ring.from - 1;
    const page = await log.page({
      after,
      upTo,
      commitsMax: settings.pageCommitsMax,
      bytesMax: settings.pageBytesMax,
      ...(filter.workflow === undefined ? {} : { workflows: [...new Set(filter.workflow)] }),
      ...(filter.workflow !== undefined || filter.type === undefined
        ? {}
        : { types: [...new Set(filter.type)] }),
    });
    const info = await known.ask();
    if (info.epoch !== known.info.epoch) {
      throw new MillraceError("log_recreated", "The event log was made anew while its history was read.");
    }
    const commits: RunCommit[] = [];
    for (const commit of page.commits) {
      if (!matchesRun(filter, commit.workflowId, commit.type)) continue;
      const decoded = toRunCommit(commit, logger, () => metrics.undecodable.inc());
      if (decoded !== null) commits.push(decoded);
    }
    const purged = await this.#purged(filter, after, page.commits);
    return { commits, upTo: page.upTo, purged };
  }

  awaitMore(_key: object, _after: number, ready: () => void): void {
    // Only when the ring did not move meanwhile, and then there is nothing to wait for but the next look.
    setImmediate(ready);
  }

  awaitStates(subscription: Subscription, ready: () => void, failed: (error: unknown) => void): boolean {
    const { histories, seam } = this.#options;
    const ids = idsOf(subscription);
    if (ids.length === 0 || histories.reach(ids) >= seam.ring.from - 1) return false;
    histories.load(ids, seam.head).then(ready, failed);
    return true;
  }

  stop(): void {
    // Reads under way end by themselves, and nobody takes their answers.
  }

  /**
   * Whether a run that was asked for by its id has lost commits that may lie behind `after`: the first one that the log
   * still has of it comes later and is not its start. The page may have none of it, and all that is left be in the ring.
   */
  async #purged(filter: Filter, after: number, commits: readonly StoredCommit[]): Promise<boolean> {
    const { log, seam } = this.#options;
    for (const id of new Set(filter.workflow)) {
      const inPage = commits.find(({ workflowId }) => workflowId === id);
      if (inPage !== undefined && beginsRun(inPage)) continue;
      const first = { after: 0, upTo: seam.head, workflows: [id], commitsMax: 1, bytesMax: 1 };
      const [kept] = (await log.page(first)).commits;
      if (kept !== undefined && kept.sequence > after && !beginsRun(kept)) return true;
    }
    return false;
  }
}

function idsOf({ topic, untilClosed }: Subscription): readonly string[] {
  return topic.filter.workflow ?? (untilClosed === null ? [] : [untilClosed]);
}

function beginsRun(commit: StoredCommit): boolean {
  if (commit.type === scheduleType) return true;
  try {
    return commit.events[0]?.type === "WorkflowStarted";
  } catch (error) {
    // Told where it is decoded for the page; a commit that cannot be read proves no purge.
    if (isMillraceError(error)) return true;
    throw error;
  }
}
