import { laneOf, type Fleet, type HostedType } from "@millrace/schemas";
import type { FleetView } from "./fleet-view.ts";

/** The fleet as `GET /v1/fleet` tells it: sessions by age, groups and types by name. */
export function describeFleet(view: FleetView, shardCount: number): Fleet {
  const sessions = [...view.sessions.values()].toSorted((a, b) => a.age - b.age);
  const groups = [...new Set(sessions.map(({ group }) => group))].toSorted();
  const shards = Array.from({ length: shardCount }, (_, shard) => shard);
  const hosted = new Map<string, Fleet["hosted"][number]>();
  for (const { group, workflows } of sessions) {
    for (const workflow of workflows) {
      const key = `${laneOf(workflow)} ${group}`;
      const before = hosted.get(key)?.sessions ?? 0;
      hosted.set(key, { type: workflow.type, version: workflow.version, group, sessions: before + 1 });
    }
  }
  return {
    sessions: sessions.map(({ session, group, host, pid, startedAt, draining, workflows }) => ({
      session,
      group,
      host,
      pid,
      startedAt,
      draining,
      workflows,
      shards: shards.filter((shard) =>
        view.liveHolders(group, shard).some((holder) => holder.session === session),
      ),
    })),
    groups: groups.map((group) => {
      const members = sessions.filter((session) => session.group === group);
      const workflows = new Map(members.flatMap((each) => each.workflows.map((one) => [laneOf(one), one])));
      return {
        group,
        sessions: members.length,
        shardsHeld: shards.filter((shard) => view.liveHolders(group, shard).length > 0).length,
        shardsTotal: shardCount,
        workflows: [...workflows.values()].toSorted(byTypeAndVersion),
      };
    }),
    hosted: [...hosted.values()].toSorted(byTypeAndVersion),
  };
}

function byTypeAndVersion(a: HostedType, b: HostedType): number {
  const [left, right] = [laneOf(a), laneOf(b)];
  return left < right ? -1 : left > right ? 1 : 0;
}
