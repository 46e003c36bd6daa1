/**
 * What one session should do about the shards of its group, given what is known of the fleet.
 *
 * P1 Nothing is claimed that a live session holds: it is given away by its holder, or free once that is gone.
 * P2 Sessions that see the same fleet want disjoint lanes, and together all that some of them host.
 * P3 A fleet that has come to rest plans nothing.
 */
import type { ShardHolder } from "@millrace/schemas";
import type { FleetView } from "./fleet-view.ts";
import { rankSessions } from "./rendezvous.ts";

/** A part of a shard: all runs in it of these lanes (`type@version`). */
export interface ShardScope {
  readonly shard: number;
  readonly lanes: readonly string[];
}

export interface ShardWrite {
  readonly shard: number;
  /** Revision that the key has now. */
  readonly expected: number;
  readonly holders: readonly ShardHolder[];
  /** Lanes that are held once this is written; none when it only takes the session's name off. */
  readonly gained: readonly string[];
}

export interface ShardPlan {
  readonly writes: readonly ShardWrite[];
  /** Held, and another's from now on. */
  readonly handOvers: readonly ShardScope[];
  /** Held, but written over by somebody else: to be let go at once. */
  readonly lost: readonly ShardScope[];
}

export interface PlanInput {
  readonly view: FleetView;
  readonly session: string;
  readonly group: string;
  readonly shardCount: number;
  readonly lanes: ReadonlySet<string>;
  /** It takes nothing and gives all away. */
  readonly draining: boolean;
  readonly held: ReadonlyMap<number, ReadonlySet<string>>;
  /** Shards with a write or a hand-over under way. */
  readonly busy: ReadonlySet<number>;
}

export function planShards(input: PlanInput): ShardPlan {
  const { view, group, session, shardCount, held, busy, draining } = input;
  const writes: ShardWrite[] = [];
  const handOvers: ShardScope[] = [];
  const lost: ShardScope[] = [];
  const candidates = view.sessionsOf(group).filter((each) => !each.draining);
  const lanesOf = new Map(candidates.map((each) => [each.session, each.lanes]));
  const names = [...lanesOf.keys()];
  for (let shard = 0; shard < shardCount; shard++) {
    if (busy.has(shard)) continue;
    const mine = held.get(shard) ?? new Set<string>();
    const holders = view.liveHolders(group, shard);
    const written = new Set(holders.find((holder) => holder.session === session)?.lanes);
    const overwritten = [...mine].filter((lane) => !written.has(lane));
    if (overwritten.length > 0) {
      lost.push({ shard, lanes: overwritten });
      continue;
    }
    const wanted = draining ? new Set<string>() : wantedLanes(input.lanes, session, lanesOf, names, shard);
    const unwanted = [...mine].filter((lane) => !wanted.has(lane));
    if (unwanted.length > 0) {
      handOvers.push({ shard, lanes: unwanted });
      continue;
    }
    const others = holders.filter((holder) => holder.session !== session);
    const taken = new Set(others.flatMap(({ lanes }) => lanes));
    const gained = [...wanted].filter((lane) => !mine.has(lane) && !taken.has(lane));
    const stale = [...written].some((lane) => !mine.has(lane) && !gained.includes(lane));
    if (gained.length === 0 && !stale) continue;
    const lanes = [...mine, ...gained].toSorted();
    writes.push({
      shard,
      expected: view.shard(group, shard).revision,
      holders: lanes.length === 0 ? others : [...others, { session, lanes }],
      gained,
    });
  }
  return { writes, handOvers, lost };
}

/** Of each lane the best-ranked session that hosts it: what those before this one in the rank leave to it. */
function wantedLanes(
  lanes: ReadonlySet<string>,
  session: string,
  lanesOf: ReadonlyMap<string, ReadonlySet<string>>,
  names: readonly string[],
  shard: number,
): Set<string> {
  const left = new Set(lanes);
  for (const better of rankSessions(names, shard)) {
    if (better === session) return left;
    for (const lane of lanesOf.get(better) ?? []) left.delete(lane);
    if (left.size === 0) return left;
  }
  // Its own key is not there (yet, or any more): it may hold nothing.
  return new Set();
}
