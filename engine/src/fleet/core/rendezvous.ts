import { fnv1a } from "@millrace/schemas";

/**
 * Sessions in the order in which they should have a shard, best first. Every process that sees the same sessions
 * comes to the same order, and a session that comes or goes moves only the shards that it wins or had.
 * Source: Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (highest random weight).
 */
export function rankSessions(sessions: readonly string[], shard: number): string[] {
  return sessions
    .map((session) => ({ session, weight: weightOf(session, shard) }))
    .toSorted((a, b) => b.weight - a.weight || (a.session < b.session ? -1 : 1))
    .map(({ session }) => session);
}

/** FNV-1a alone hardly mixes its last characters into the upper bits: the finaliser of MurmurHash3 does. */
function weightOf(session: string, shard: number): number {
  let hash = fnv1a(`${session}/${shard}`);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
