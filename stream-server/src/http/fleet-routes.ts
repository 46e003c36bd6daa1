import type { Millrace } from "@millrace/engine";
import { json } from "./message.ts";
import type { Route } from "./router.ts";

/** Who executes runs: the live workers, their groups and shards, and the types and versions that are hosted. */
export function fleetRoutes(millrace: Pick<Millrace, "fleet">): readonly Route[] {
  return [{ method: "GET", path: "/v1/fleet", handler: async () => json(200, await millrace.fleet()) }];
}
