/**
 * Where a subscription begins. Cursors are compared with what the broker says now: a consumer that starts at an
 * expired or future sequence would silently begin elsewhere.
 */
import type { LogInfo } from "@millrace/event-log";
import type { Projection } from "@millrace/projector";
import { isMillraceError, MillraceError, parseCursor, type GoneReason } from "@millrace/schemas";
import type { HubSettings } from "./hub-settings.ts";
import type { KnownLog } from "./known-log.ts";
import type { Metrics } from "./metrics.ts";

export type Admission =
  | { readonly kind: "at"; readonly position: number; readonly resumed: boolean }
  | {
      readonly kind: "gone";
      readonly why: GoneReason;
      readonly epoch: string;
      readonly first: number;
      readonly head: number;
    };

export interface CursorAdmissionOptions {
  readonly known: KnownLog;
  /** Null: a node without one answers from the log itself, which is never behind. */
  readonly projection: Projection | null;
  readonly settings: HubSettings;
  readonly metrics: Metrics;
  /** Sequence of the newest commit heard of. */
  readonly head: () => number;
}

export class CursorAdmission {
  readonly #options: CursorAdmissionOptions;

  constructor(options: CursorAdmissionOptions) {
    this.#options = options;
  }

  /** `cursor_malformed`, `projector_behind`, `unavailable`. */
  async admit(from: string | undefined, min: number | undefined): Promise<Admission> {
    const { known, projection, settings, head } = this.#options;
    if (min !== undefined && projection !== null) await projection.waitFor(min, settings.projectorWaitMs);
    if (min !== undefined && projection === null) await this.#reached(min);
    if (from === undefined || from === "now" || from === "snapshot") {
      return { kind: "at", position: head(), resumed: false };
    }
    if (from === "start") {
      const { firstSequence } = await known.ask();
      return { kind: "at", position: Math.max(firstSequence - 1, 0), resumed: false };
    }
    const cursor = parseCursor(from);
    return this.admitSequence(cursor.sequence, cursor.epoch);
  }

  /** A position that the log does not have is told as one that the projector has not reached: ask again. */
  async #reached(min: number): Promise<void> {
    const { lastSequence } = await this.#options.known.ask();
    if (lastSequence >= min) return;
    throw new MillraceError(
      "projector_behind",
      `Sequence ${min} is not there yet: the log is at ${lastSequence}. Try again.`,
      { details: { expected: min, actual: lastSequence } },
    );
  }

  /** As {@link admit}, for a cursor that may have no epoch. */
  async admitSequence(sequence: number, epoch?: string): Promise<Admission> {
    const { known, head, metrics } = this.#options;
    let info: LogInfo;
    try {
      info = await known.ask();
    } catch (error) {
      // The broker is away, but what this process has seen of the log it can still serve.
      if (!isMillraceError(error) || !error.retryable) throw error;
      if (epoch !== undefined && epoch !== known.info.epoch) throw error;
      if (sequence > head()) throw error;
      info = { ...known.info, lastSequence: head() };
    }
    const result = verdict(info, sequence, epoch);
    metrics.resumes.inc({ result: result ?? "ok" });
    return result === null
      ? { kind: "at", position: sequence, resumed: true }
      : { kind: "gone", why: result, epoch: info.epoch, first: info.firstSequence, head: info.lastSequence };
  }
}

function verdict(info: LogInfo, sequence: number, epoch: string | undefined): GoneReason | null {
  if (epoch !== undefined && epoch !== info.epoch) return "epoch";
  if (sequence > info.lastSequence) return "future";
  if (sequence + 1 < info.firstSequence) return "expired";
  return null;
}
