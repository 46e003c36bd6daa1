/**
 * When this process should end: a signal, a supervisor's word, or its silence.
 *
 * Owns: the signal handlers and the channel to a supervisor. Does not own: what is done to stop.
 *
 * I1 The first request counts; a second signal ends the process at once, with 128 and the signal's number. Before
 *    `ready` the first one does so too: nothing is served yet, and broker and parts end with this process (I2, and the
 *    broker's guard), so there is nothing to wait for. The same signal again within `echoMs` is the first one's echo.
 * I2 When the supervisor is gone, however it ended, the process ends too, within `orphanMs` at the latest.
 */
import type { DrainMessage } from "./parts/part-messages.ts";

/** How long running steps may take to end; a service manager usually waits 30 s before it kills. */
const drainMs = 20_000;
/** Without a supervisor there is no broker either: what is not recorded by now cannot be. */
const orphanDrainMs = 1_000;
const orphanMs = 4_000;
/** Ctrl-C reaches the whole terminal group, and `npm start` passes it on to us once more: nobody asked twice. */
const echoMs = 500;
const signals = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

export interface StopRequest {
  readonly reason: string;
  readonly drainMs: number;
  /** Set when a part failed: the process ends with this error. */
  readonly error?: Error;
}

export interface StopRequests {
  readonly requested: Promise<StopRequest>;
  /** A part cannot go on. */
  readonly fail: (error: Error) => void;
  /** From now on a request means: drain. */
  readonly ready: () => void;
}

/** `supervised`: this process was started with a channel to a supervisor. */
export function listenForStop(supervised: boolean): StopRequests {
  let request: (request: StopRequest) => void = () => undefined;
  const requested = new Promise<StopRequest>((resolve) => {
    request = resolve;
  });
  let endAtOnce = true;
  let first: { readonly name: string; readonly at: number } | null = null;
  for (const [name, number] of Object.entries(signals)) {
    process.on(name, () => {
      const at = performance.now();
      if (first?.name === name && at - first.at < echoMs) return;
      if (endAtOnce) process.exit(128 + number);
      endAtOnce = true;
      first = { name, at };
      request({ reason: name, drainMs });
    });
  }
  if (supervised) {
    // It was killed while this process loaded its code: nobody would ever tell us.
    if (!process.connected) process.exit(1);
    process.on("message", (message: DrainMessage) => {
      if (endAtOnce) process.exit(0);
      request({ reason: "drained by the supervisor", drainMs: message.drainMs });
    });
    process.on("disconnect", () => {
      setTimeout(() => process.exit(1), orphanMs).unref();
      request({ reason: "the supervisor is gone", drainMs: orphanDrainMs });
    });
  }
  return {
    requested,
    fail: (error) => {
      request({ reason: error.message, drainMs: orphanDrainMs, error });
    },
    ready: () => {
      endAtOnce = false;
    },
  };
}
