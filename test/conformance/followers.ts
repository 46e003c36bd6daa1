/** Two clients that go on over any number of connections: one by the document alone, and our own. */
import { setTimeout as delay } from "node:timers/promises";
import { createClient } from "@millrace/client";
import { WebSocket } from "ws";
import { ChainJudge } from "./chain-judge.ts";
import type { Entry } from "./frame.ts";
import { RawClient } from "./raw-client.ts";

export interface Follower {
  readonly name: string;
  readonly entries: readonly Entry[];
  readonly breaches: readonly string[];
  close(): Promise<void>;
}

const retryMs = 20;

/** Reconnects with its cursor, and drops a connection that is silent for longer than heartbeats allow. */
export function followRaw(url: string, filter: object, heartbeatMs: number): Follower {
  const judge = new ChainJudge();
  const silenceMs = 2.5 * heartbeatMs;
  let open: RawClient | null = null;
  const stop = new AbortController();
  const run = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      try {
        const client = await RawClient.open(`${url}/v1/stream`, Math.max(silenceMs, 1_000));
        open = client;
        client.subscribe({ filter, from: "start" }, judge);
        while (client.closed === null && !stop.signal.aborted) {
          if (performance.now() - client.heardAt > silenceMs) client.cut();
          await delay(retryMs);
        }
        client.cut();
      } catch {
        // A connection that did not come about, or ended in the handshake: the next one resumes.
        await delay(retryMs);
      }
    }
  };
  const running = run();
  return {
    name: "a client by the document",
    entries: judge.entries,
    breaches: judge.breaches,
    async close() {
      stop.abort();
      open?.cut();
      await running;
    },
  };
}

export function followWithClient(url: string, filter: { readonly type: readonly string[] }): Follower {
  const entries: Entry[] = [];
  const breaches: string[] = [];
  const client = createClient({
    url,
    WebSocket,
    backoff: { minMs: 20, maxMs: 100 },
    connectTimeoutMs: 1_000,
  });
  const subscribed = client.subscribe(filter, {
    from: "start",
    onEvent({ sequence, type, workflowId, at, data }) {
      entries.push([sequence, type, workflowId, at, data]);
    },
    onGap: (gap) => breaches.push(`gap: ${JSON.stringify(gap)}`),
    onError: (error) => breaches.push(String(error)),
  });
  return {
    name: "@millrace/client",
    entries,
    breaches,
    close: () => {
      subscribed.close();
      client.close();
      return Promise.resolve();
    },
  };
}
