/**
 * Which engine processes there are, and which shards each of them executes: what is kept in the broker's bucket of
 * leases, and what `GET /v1/fleet` says.
 */
import * as v from "valibot";
import { assertToken } from "./ids.ts";
import { limits } from "./limits.ts";

const HostedTypeSchema = v.object({ type: v.string(), version: v.string() });

/** A workflow type in one version, as some worker hosts it. */
export interface HostedType {
  readonly type: string;
  readonly version: string;
}

const FleetSessionSchema = v.object({
  session: v.string(),
  group: v.string(),
  host: v.string(),
  pid: v.number(),
  place: v.string(),
  startedAt: v.string(),
  draining: v.boolean(),
  joined: v.number(),
  workflows: v.array(HostedTypeSchema),
});

/** Value of a session's key: one worker that is alive. The key goes away when the worker does not renew it. */
export interface FleetSession {
  /** ULID; also the writer of its commits until it had to begin another session. */
  readonly session: string;
  /** Workers of one group share its shards. */
  readonly group: string;
  readonly host: string;
  readonly pid: number;
  /** Where `pid` has a meaning: the machine's boot and its space of process ids. */
  readonly place: string;
  /** ISO 8601. */
  readonly startedAt: string;
  /** It gives its shards away and takes none. */
  readonly draining: boolean;
  /** Revision of the key when it was made, which orders sessions by age; 0 as long as that is the present one. */
  readonly joined: number;
  readonly workflows: readonly HostedType[];
}

const ShardHoldersSchema = v.object({
  holders: v.array(v.object({ session: v.string(), lanes: v.array(v.string()) })),
});

/** Who executes what of a shard. A lane (`type@version`) has at most one holder; a session that is gone holds nothing. */
export interface ShardHolder {
  readonly session: string;
  readonly lanes: readonly string[];
}

/** Value of a shard's key. */
export interface ShardHolders {
  readonly holders: readonly ShardHolder[];
}

export type FleetKey =
  | { readonly kind: "session"; readonly session: string }
  | { readonly kind: "shard"; readonly group: string; readonly shard: number };

export function sessionKey(session: string): string {
  return `session.${session}`;
}

export function shardKey(group: string, shard: number): string {
  return `shard.${group}.${shard}`;
}

/** Null for a key that is none of ours. */
export function parseFleetKey(key: string): FleetKey | null {
  const [kind, name, shard, ...more] = key.split(".");
  if (name === undefined || name === "" || more.length > 0) return null;
  if (kind === "session" && shard === undefined) return { kind, session: name };
  if (kind !== "shard" || shard === undefined || !/^[0-9]{1,6}$/.test(shard)) return null;
  return { kind, group: name, shard: Number(shard) };
}

/** Null for text that is no session: of another program, or of a version that this one does not know. */
export function parseFleetSession(text: string): FleetSession | null {
  return parsed(FleetSessionSchema, text);
}

/** As {@link parseFleetSession}, for a shard's key. */
export function parseShardHolders(text: string): ShardHolders | null {
  return parsed(ShardHoldersSchema, text);
}

function parsed<Schema extends v.GenericSchema>(schema: Schema, text: string): v.InferOutput<Schema> | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Not JSON: as little ours as JSON of another shape.
    return null;
  }
  const result = v.safeParse(schema, value);
  return result.success ? result.output : null;
}

/** What a lease is about within a shard: runs of one version of one type. */
export function laneOf({ type, version }: HostedType): string {
  return `${type}@${version}`;
}

/** `[A-Za-z0-9_-]{1,64}`; else `invalid_id`. */
export function assertGroup(value: unknown): asserts value is string {
  assertToken("Worker group", value, limits.workerGroupChars);
}

/** Answer of `GET /v1/fleet`: the live workers, and what they execute. */
export interface Fleet {
  readonly sessions: readonly (Omit<FleetSession, "place" | "joined"> & {
    /** Shards of which it holds a part or all. */
    readonly shards: readonly number[];
  })[];
  readonly groups: readonly {
    readonly group: string;
    /** Live sessions. */
    readonly sessions: number;
    /** Shards that a live session holds, of all. */
    readonly shardsHeld: number;
    readonly shardsTotal: number;
    readonly workflows: readonly HostedType[];
  }[];
  /** Every type and version that a live session hosts. A run of another one waits. */
  readonly hosted: readonly (HostedType & { readonly group: string; readonly sessions: number })[];
}
