import { createClient, type ClientStats, type StreamStatus } from "@millrace/client";
import { WebSocket } from "ws";
import type { ReceivedEvent } from "./compare-stream.ts";

export interface StreamFollower {
  readonly name: string;
  /** Everything that came, in the order in which it came. */
  readonly received: readonly ReceivedEvent[];
  /** Sequence of the event that came last. */
  readonly position: number;
  readonly status: StreamStatus;
  readonly stats: ClientStats;
  /**
   * From stored to delivered, milliseconds, of each event that came live. An event that was stored before the
   * subscription became live (again) came by catching up: its delay is that of the cut, so it is left out.
   */
  readonly liveDelaysMs: readonly number[];
  /** Why it ended; null while it goes on. */
  readonly error: Error | null;
  close(): void;
}

/** Quick, since the demo's server is near and comes back soon: a client for the wild waits up to 30 s. */
const backoff = { minMs: 20, maxMs: 250, healthyMs: 500 } as const;

/** Follows everything from the first event kept. `onChange` is called after each event and change of status. */
export function followStream(name: string, url: string, onChange: () => void): StreamFollower {
  const received: ReceivedEvent[] = [];
  const liveDelaysMs: number[] = [];
  let liveSince = Number.POSITIVE_INFINITY;
  let failure: Error | null = null;
  const client = createClient({ url, WebSocket, client: `demo-${name}`, backoff });
  const subscription = client.subscribe(
    {},
    {
      from: "start",
      onEvent({ sequence, type, workflowId, at, data }) {
        const storedAt = Date.parse(at);
        if (storedAt >= liveSince) liveDelaysMs.push(performance.timeOrigin + performance.now() - storedAt);
        received.push({ sequence, type, workflowId, at, data: JSON.stringify(data) });
        onChange();
      },
      onStatus(status) {
        liveSince = status === "live" ? Date.now() : Number.POSITIVE_INFINITY;
        onChange();
      },
      onError(error) {
        failure = error instanceof Error ? error : new Error(String(error));
        onChange();
      },
    },
  );
  return {
    name,
    received,
    liveDelaysMs,
    get position() {
      return received.at(-1)?.sequence ?? 0;
    },
    get status() {
      return subscription.status;
    },
    get stats() {
      return client.stats;
    },
    get error() {
      return failure;
    },
    close() {
      client.close();
    },
  };
}
