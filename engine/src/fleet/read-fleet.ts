import type { EventLog } from "@millrace/event-log";
import type { Fleet } from "@millrace/schemas";
import { describeFleet } from "./core/describe-fleet.ts";
import { FleetView } from "./core/fleet-view.ts";

/** The fleet of a log as it is now, read once. */
export async function readFleet(log: EventLog): Promise<Fleet> {
  const [leases, { shardCount }] = await Promise.all([log.leases(), log.info()]);
  const view = new FleetView();
  const watch = await leases.watch((change) => void view.apply(change));
  watch.stop();
  return describeFleet(view, shardCount);
}
