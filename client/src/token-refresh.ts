import type { Timer } from "./stream-connection.ts";

/** Part of a token's life after which the next one is asked for: the rest is for a slow or failing token service. */
const refreshAtPart = 0.75;
const failedRetryMinMs = 1_000;

/**
 * Asks for a new token before the one of a connection runs out, again and again until what it
 * answers is called. A token that is a string cannot be renewed: its end comes as close code 4001.
 */
export function refreshToken(options: {
  readonly token: () => string | Promise<string>;
  readonly lifetimeMs: number;
  readonly timer: Timer;
  readonly send: (token: string) => void;
  readonly failed: (error: unknown) => void;
}): () => void {
  const { token, lifetimeMs, timer, send, failed } = options;
  let stopped = false;
  let disarm: (() => void) | undefined;
  const arm = (delayMs: number): void => {
    disarm = timer(ask, Math.min(delayMs, 2 ** 31 - 1));
  };
  const ask = (): void => {
    Promise.resolve()
      .then(token)
      .then(
        (fresh) => {
          if (stopped) return;
          send(fresh);
          arm(lifetimeMs * refreshAtPart);
        },
        (error: unknown) => {
          if (stopped) return;
          failed(error);
          arm(Math.max(failedRetryMinMs, (lifetimeMs * (1 - refreshAtPart)) / 4));
        },
      );
  };
  arm(lifetimeMs * refreshAtPart);
  return () => {
    stopped = true;
    disarm?.();
  };
}
