import type { Fleet } from "@millrace/schemas";

/** A line for each group with shards that nobody executes at this moment. */
export function missingShards({ groups }: Fleet): string[] {
  return groups
    .filter(({ shardsHeld, shardsTotal }) => shardsHeld < shardsTotal)
    .map(
      ({ group, shardsHeld, shardsTotal }) =>
        `Group ${group}: ${shardsTotal - shardsHeld} of ${shardsTotal} shards wait to be taken over; ` +
        `after a worker was killed that takes until its lease ends`,
    );
}
