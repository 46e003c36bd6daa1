/**
 * What is known of the fleet, folded from the changes of its leases.
 *
 * V1 A change that is older than what is known of its key is ignored: own writes are known before they are told.
 * V2 Total: keys and values of others are not ours to judge; a session that cannot be read counts as none.
 */
import {
  laneOf,
  parseFleetKey,
  parseFleetSession,
  parseShardHolders,
  shardKey,
  type FleetSession,
  type HostedType,
  type ShardHolder,
} from "@millrace/schemas";

export interface KnownSession extends FleetSession {
  readonly revision: number;
  /** Orders sessions by age: that of the key's first write. */
  readonly age: number;
  /** The key's value: a renewal does not change it. */
  readonly text: string;
  readonly lanes: ReadonlySet<string>;
}

export interface KnownShard {
  readonly revision: number;
  readonly holders: readonly ShardHolder[];
}

/** As the log's adapters tell it. */
interface Change {
  readonly key: string;
  readonly value: string | null;
  readonly revision: number;
}

const freeShard: KnownShard = { revision: 0, holders: [] };

export class FleetView {
  readonly #sessions = new Map<string, KnownSession>();
  readonly #shards = new Map<string, KnownShard>();

  get sessions(): ReadonlyMap<string, KnownSession> {
    return this.#sessions;
  }

  /** False when it changes nothing but a revision. */
  apply({ key, value, revision }: Change): boolean {
    const parsed = parseFleetKey(key);
    if (parsed === null) return false;
    if (parsed.kind === "session") return this.#applySession(parsed.session, value, revision);
    const known = this.#shards.get(key);
    if (known !== undefined && known.revision >= revision) return false;
    const holders = value === null ? [] : (parseShardHolders(value)?.holders ?? []);
    this.#shards.set(key, { revision: value === null ? 0 : revision, holders });
    return true;
  }

  #applySession(name: string, value: string | null, revision: number): boolean {
    const known = this.#sessions.get(name);
    if (known !== undefined && known.revision > revision) return false;
    if (known !== undefined && known.text === value) {
      this.#sessions.set(name, { ...known, revision });
      return false;
    }
    const session = value === null ? null : parseFleetSession(value);
    if (session === null || value === null) return this.#sessions.delete(name);
    this.#sessions.set(name, {
      ...session,
      revision,
      age: session.joined === 0 ? revision : session.joined,
      text: value,
      lanes: new Set(session.workflows.map(laneOf)),
    });
    return true;
  }

  shard(group: string, shard: number): KnownShard {
    return this.#shards.get(shardKey(group, shard)) ?? freeShard;
  }

  /** Of sessions that are alive. */
  liveHolders(group: string, shard: number): ShardHolder[] {
    return this.shard(group, shard).holders.filter(({ session }) => this.#sessions.has(session));
  }

  sessionsOf(group: string): KnownSession[] {
    return [...this.#sessions.values()].filter((session) => session.group === group);
  }

  /** Whether a live session hosts this version of the type. */
  isHosted(hosted: HostedType): boolean {
    const lane = laneOf(hosted);
    for (const { lanes } of this.#sessions.values()) if (lanes.has(lane)) return true;
    return false;
  }

  /** An older live session of another group that hosts one of this session's types, and that type. */
  claimantBefore(session: KnownSession): { readonly type: string; readonly by: KnownSession } | null {
    for (const other of this.#sessions.values()) {
      if (other.group === session.group || other.age >= session.age) continue;
      const type = session.workflows.find((mine) =>
        other.workflows.some((theirs) => theirs.type === mine.type),
      )?.type;
      if (type !== undefined) return { type, by: other };
    }
    return null;
  }
}
