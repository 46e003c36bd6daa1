import type { Projection } from "@millrace/projector";
import { decodeCommit, MillraceError, type Filter } from "@millrace/schemas";
import type { ImmediateSource, SourcePage } from "./commit-source.ts";
import type { RunAttributes } from "./core/run-attributes.ts";
import type { RunCommit } from "./core/run-commit.ts";
import type { Seam } from "./core/seam.ts";
import type { Subscription } from "./core/subscription.ts";
import type { HubSettings } from "./hub-settings.ts";
import type { KnownLog } from "./known-log.ts";
import type { StreamServerLogger } from "./logger.ts";
import type { Metrics } from "./metrics.ts";
import { ProjectionWait } from "./projection-wait.ts";

export interface ProjectionSourceOptions {
  readonly projection: Projection;
  readonly known: KnownLog;
  readonly seam: Seam;
  readonly attributes: RunAttributes;
  readonly settings: HubSettings;
  readonly metrics: Metrics;
  readonly logger: StreamServerLogger;
}

/** Old history from the projection: read in the turn in which it is asked for, as far as the projector has come. */
export class ProjectionSource implements ImmediateSource {
  readonly name = "projection";
  readonly #options: ProjectionSourceOptions;
  readonly #wait: ProjectionWait;

  constructor(options: ProjectionSourceOptions) {
    this.#options = options;
    this.#wait = new ProjectionWait(options.projection, options.logger);
  }

  read(filter: Filter, after: number): SourcePage {
    const { projection, known, attributes, settings, metrics, logger } = this.#options;
    const checkpoint = projection.checkpoint();
    if (checkpoint.sequence > 0 && checkpoint.streamCreated !== known.info.created) {
      throw new MillraceError(
        "checkpoint_mismatch",
        `The projection is of another log (created ${checkpoint.streamCreated}, expected ${known.info.created}).`,
      );
    }
    const { pageCommitsMax, pageBytesMax } = settings;
    const { commits, upTo } = projection.commits(filter, after, pageCommitsMax, pageBytesMax);
    const decoded: RunCommit[] = [];
    for (const { sequence, workflowId, type, at, condition, body, attributes: around } of commits) {
      try {
        const commit: RunCommit = {
          sequence,
          workflowId,
          type,
          at,
          condition,
          events: decodeCommit(body, sequence),
          bytes: body.length,
        };
        if (around !== undefined) attributes.note(commit, around);
        decoded.push(commit);
      } catch (error) {
        metrics.undecodable.inc();
        logger.error({ err: error, sequence, workflowId }, "Commit cannot be read: no subscriber gets it");
      }
    }
    return { commits: decoded, upTo };
  }

  awaitMore(key: object, after: number, ready: () => void): void {
    this.#wait.until(key, after + 1, ready);
  }

  awaitStates(subscription: Subscription, ready: () => void): boolean {
    const { seam, projection } = this.#options;
    const wanted = Math.min(Math.max(subscription.pos, 1), seam.ring.from - 1);
    if (projection.checkpoint().sequence >= wanted) return false;
    this.#wait.until(subscription, wanted, ready);
    return true;
  }

  stop(): void {
    this.#wait.stop();
  }
}
