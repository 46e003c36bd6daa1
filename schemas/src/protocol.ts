/**
 * The live stream `millrace.v1`: frames, close codes, defaults. JSON text, one frame a message.
 * `i` is the subscription id that the client chose, `f` names a canonical filter within one server process,
 * `p` and `s` are sequences: every `ev` and `bm` says "these are all the matching events in (p, s]".
 */
import * as v from "valibot";
import type { ErrorCode } from "./errors.ts";
import type { EventType } from "./events.ts";
import { FilterSchema } from "./filter.ts";
import { limits } from "./limits.ts";
import type { WorkflowRow } from "./row.ts";

const subscriptionId = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(2 ** 31 - 1));
const sequence = v.pipe(v.number(), v.integer(), v.minValue(0));
const upTo = (max: number) => v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(max));
const token = v.pipe(v.string(), v.maxLength(limits.tokenChars));

export const ClientFrame = v.variant("t", [
  v.object({
    t: v.literal("hello"),
    v: v.number(),
    token: v.optional(token),
    client: v.optional(v.pipe(v.string(), v.maxLength(128))),
  }),
  v.object({
    t: v.literal("sub"),
    i: subscriptionId,
    filter: v.optional(FilterSchema),
    /** A cursor, `start`, `now` (default) or `snapshot`. */
    from: v.optional(v.string()),
    /** The projection must have reached this sequence before anything is read from it. */
    min: v.optional(sequence),
    /** Entries sent and not acknowledged by `ack`, at most; at it the subscription is demoted (`behind`, `window`). */
    window: v.optional(upTo(limits.windowEntries)),
    /** Live frames are held until so many events or milliseconds are there. */
    batch: v.optional(v.object({ max: upTo(limits.batchEvents), ms: upTo(limits.batchMs) })),
    /** Default `events`. `both`: the events of a commit, then its state entry. */
    shape: v.optional(v.picklist(["events", "state", "both"])),
    until: v.optional(v.literal("closed")),
  }),
  /** Everything up to `s` was handled; only with a window. It moves nothing back. */
  v.object({ t: v.literal("ack"), i: subscriptionId, s: sequence }),
  /** A new token for the connection, before the old one expires. */
  v.object({ t: v.literal("auth"), token }),
  v.object({ t: v.literal("unsub"), i: subscriptionId }),
  v.object({ t: v.literal("ping"), n: v.optional(v.number()) }),
  /** Chain breaks that the client saw since its last report: the message-loss metric. */
  v.object({ t: v.literal("report"), i: subscriptionId, breaks: sequence, duplicates: sequence }),
]);
export type ClientFrame = v.InferOutput<typeof ClientFrame>;
export type SubscribeFrame = Extract<ClientFrame, { t: "sub" }>;
export type StreamShape = "events" | "state" | "both";
/** How the live frames of a subscription are held: until `max` events, or for `ms` milliseconds. */
export interface StreamBatch {
  readonly max: number;
  readonly ms: number;
}

/** `[sequence, type, workflowId, at, data]`. */
export type EventEntry = readonly [
  sequence: number,
  type: EventType,
  workflowId: string,
  at: string,
  data: unknown,
];
/**
 * The fields of a run's row that changed, each with its whole new value: `Object.assign(row, fields)` is the row as
 * of this entry. The first entry of a run within a subscription has all of them, and so has the one after a row that
 * was closed: whoever is done with a closed run may forget its row.
 */
export type StateFields = Pick<WorkflowRow, "id" | "sequence"> & Partial<WorkflowRow>;
/** `[sequence, "state", workflowId, at, fields]`: the row after a commit. */
export type StateEntry = readonly [
  sequence: number,
  type: "state",
  workflowId: string,
  at: string,
  fields: StateFields,
];

export type SubscriptionMode = "catchup" | "snapshot" | "live";
export type BehindReason = "slow" | "window" | "tail";
export type GoneReason = "epoch" | "expired" | "future" | "purged";

export type ServerFrame =
  | {
      readonly t: "welcome";
      readonly v: 1;
      readonly node: string;
      /** Epoch of the log. */
      readonly e: string;
      readonly first: number;
      readonly head: number;
      /** Milliseconds between heartbeats. */
      readonly hb: number;
      /** Seconds until the token expires; absent without auth. */
      readonly ttl?: number;
      readonly limits: { readonly subs: number; readonly frame: number };
    }
  | {
      readonly t: "subbed";
      readonly i: number;
      readonly f: number;
      readonly mode: SubscriptionMode;
      readonly s: number;
      readonly head: number;
      readonly resumed: boolean;
    }
  | { readonly t: "snap"; readonly i: number; readonly rows: readonly WorkflowRow[]; readonly more: boolean }
  | { readonly t: "snapend"; readonly i: number; readonly e: string; readonly s: number }
  | {
      readonly t: "ev";
      readonly f: number;
      readonly p: number;
      readonly s: number;
      readonly d: readonly (EventEntry | StateEntry)[];
    }
  | { readonly t: "bm"; readonly f: number; readonly p: number; readonly s: number }
  | { readonly t: "live"; readonly i: number; readonly s: number }
  | {
      readonly t: "behind";
      readonly i: number;
      readonly s: number;
      readonly head: number;
      readonly why: BehindReason;
    }
  | {
      readonly t: "hb";
      readonly s: number;
      /** Of each live subscription the last matching sequence: a cursor below it has missed a frame, else it is at `s`. */
      readonly l: readonly (readonly [f: number, last: number])[];
      /** Of each that waits for an `ack`, what it was sent up to: a cursor below it has missed a frame. */
      readonly w?: readonly (readonly [f: number, sent: number])[];
    }
  | { readonly t: "end"; readonly i: number; readonly s: number }
  | {
      readonly t: "gone";
      readonly i: number;
      readonly why: GoneReason;
      readonly e: string;
      readonly first: number;
      readonly head: number;
    }
  | {
      readonly t: "err";
      readonly i?: number;
      readonly code: ErrorCode;
      readonly msg: string;
      readonly retry: boolean;
      readonly after: number;
    }
  | { readonly t: "bye"; readonly code: number; readonly min: number; readonly max: number }
  | { readonly t: "pong"; readonly n?: number };
