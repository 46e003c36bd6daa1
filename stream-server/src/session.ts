import type { Connection } from "./connection.ts";
import type { Outlet } from "./core/subscription.ts";
import type { Readings } from "./metrics.ts";

/** One connection of a client, whatever it speaks. */
export interface Session {
  readonly kind: keyof Readings["connections"];
  readonly connection: Connection;
  readonly outlet: Outlet;
  /** Called every `tickMs`. */
  tick(now: number): void;
  /** Tells the client to go elsewhere. */
  drain(): void;
}
