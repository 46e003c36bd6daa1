/** Delay before attempt n+1: `min(maxDelayMs, initialDelayMs * factor^(n-1))`, with full jitter a random part of it. */
export interface RetryPolicy {
  /** Attempts in all, the first included. Default 3. */
  readonly maxAttempts?: number;
  /** Default 100. */
  readonly initialDelayMs?: number;
  /** Default 2. */
  readonly factor?: number;
  /** Default 30,000. */
  readonly maxDelayMs?: number;
  /** Default `full`: uniform in [0, delay). Source: Brooker, "Exponential Backoff And Jitter", AWS, 2015. */
  readonly jitter?: "full" | "none";
  /** Errors for which there is no further attempt. */
  readonly nonRetryable?: (error: unknown) => boolean;
}
