/** Delay before attempt n+1: `min(maxDelayMs, initialDelayMs * factor^(n-1))`, with full jitter a random part of it. */
export interface RetryPolicy {
  /** Attempts in all, the first included. Default 3. */
  readonly maxAttempts?: number | undefined;
  /** Default 100. */
  readonly initialDelayMs?: number | undefined;
  /** Default 2. */
  readonly factor?: number | undefined;
  /** Default 30,000. */
  readonly maxDelayMs?: number | undefined;
  /** Default `full`: uniform in [0, delay). Source: Brooker, "Exponential Backoff And Jitter", AWS, 2015. */
  readonly jitter?: "full" | "none" | undefined;
  /** Errors for which there is no further attempt. */
  readonly nonRetryable?: (error: unknown) => boolean;
}
