/**
 * One connection on `/api/workflows/{id}/updates`: the seed's plain JSON updates of one run. A state subscription
 * of the seam in another encoding: one text frame per commit, none lost, none twice.
 *
 * Several events of one commit are one update, with the commit's sequence: what is between them was never a state
 * that anybody could have queried. A run that does not exist yet is waited for.
 */
import { closeCodes, isMillraceError, type ServerFrame } from "@millrace/schemas";
import type { Connection } from "./connection.ts";
import { encodeUpdate } from "./core/encode.ts";
import type { Outlet, Payload } from "./core/subscription.ts";
import type { Session } from "./session.ts";
import type { StreamHub } from "./stream-hub.ts";

export class UpdatesSession implements Session, Outlet {
  readonly kind = "updates";
  readonly connection: Connection;
  readonly outlet: Outlet = this;
  readonly #hub: StreamHub;
  #pingAt: number;

  constructor(hub: StreamHub, connection: Connection, now: number) {
    this.#hub = hub;
    this.connection = connection;
    this.#pingAt = now + hub.settings.heartbeatMs;
    hub.sessions.add(this);
  }

  /** `from` null: first the current update, then every one that follows; else every one after that sequence. */
  start(workflowId: string, from: number | null): void {
    this.#start(workflowId, from).catch((error: unknown) => {
      const known = isMillraceError(error);
      if (!known) this.#hub.logger.error({ err: error, workflowId }, "Plain updates failed");
      const retry = !known || error.retryable;
      this.connection.close(
        retry ? closeCodes.internal : closeCodes.badFrame,
        known ? error.code : "internal",
      );
    });
  }

  async #start(workflowId: string, from: number | null): Promise<void> {
    const { seam, changed, draining } = this.#hub;
    if (changed || draining) {
      this.connection.close(closeCodes.draining, "connect again");
      return;
    }
    const filter = { workflow: [workflowId] };
    if (from === null) {
      const { row, sequence } = await this.#hub.currentRow(workflowId);
      if (!this.connection.open) return;
      if (row !== null) this.send(Buffer.from(encodeUpdate(row)));
      seam.pump(seam.subscribe(this, 0, filter, "update", sequence));
      return;
    }
    const admission = await this.#hub.admitSequence(from);
    if (!this.connection.open) return;
    if (admission.kind === "gone") {
      const { why, first, head } = admission;
      this.connection.close(closeCodes.badFrame, `from=${from} is ${why}: the log has ${first} to ${head}`);
      return;
    }
    seam.pump(seam.subscribe(this, 0, filter, "update", admission.position));
  }

  bufferedBytes(): number {
    return this.connection.bufferedBytes();
  }

  send(payload: Payload): void {
    this.connection.send(payload);
  }

  /** Plain clients know no other frames; only the end of the log needs a word. */
  control(frame: ServerFrame): void {
    if (frame.t === "gone")
      this.connection.close(closeCodes.epochChanged, "the event log was made anew: start without from");
  }

  pump(): void {
    this.#hub.seam.pumpAll(this);
  }

  tick(now: number): void {
    this.pump();
    if (now < this.#pingAt) return;
    this.#pingAt = now + this.#hub.settings.heartbeatMs;
    this.connection.ping(now);
  }

  drain(): void {
    this.connection.close(closeCodes.draining, "draining");
  }

  closed(): void {
    this.connection.closed();
    this.#hub.sessions.delete(this);
    this.#hub.seam.disconnect(this);
  }
}
