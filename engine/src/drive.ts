/**
 * The driver protocol as plain code: a service is the orchestrator, and each step is one call.
 *
 * Owns: counting occurrences, waiting for the next attempt. Does not own: what is recorded (`commands.ts`).
 */
import { isMillraceError, MillraceError, stepKey, type ErrorInfo } from "@millrace/schemas";
import { asStored } from "./as-stored.ts";
import type { Clock } from "./due-timers.ts";
import { NonRetryableError, StepFailedError, toErrorInfo } from "./failures.ts";
import { assertOpenedPayload } from "./payloads/payloads.ts";
import type { DrivenRun, DrivenStepOptions, Driver } from "./millrace.ts";

export function createDrivenRun(
  driver: Driver,
  clock: Clock,
  id: string,
  payloadBytesMax: number,
): DrivenRun {
  const occurrences = new Map<string, number>();
  return {
    id,
    async step(name, fn, options = {}) {
      const occurrence = (occurrences.get(name) ?? 0) + 1;
      occurrences.set(name, occurrence);
      return (await driveStep(
        { driver, clock, id, payloadBytesMax },
        { name, occurrence },
        fn,
        options,
      )) as Awaited<ReturnType<typeof fn>>;
    },
    complete: (output) => driver.complete(id, output ?? null),
    fail: (error) => driver.fail(id, toErrorInfo(error)),
  };
}

async function driveStep(
  of: {
    readonly driver: Driver;
    readonly clock: Clock;
    readonly id: string;
    readonly payloadBytesMax: number;
  },
  ref: { readonly name: string; readonly occurrence: number },
  fn: (step: { readonly attempt: number; readonly idempotencyKey: string }) => unknown,
  options: DrivenStepOptions,
): Promise<unknown> {
  const { driver, clock, id, payloadBytesMax } = of;
  const key = stepKey(ref.name, ref.occurrence);
  for (;;) {
    options.signal?.throwIfAborted();
    const begun = await driver.begin(
      id,
      key,
      options.maxAttempts === undefined ? {} : { maxAttempts: options.maxAttempts },
    );
    switch (begun.outcome) {
      case "completed":
        assertOpenedPayload(begun.output);
        return begun.output;
      case "failed":
        throw new StepFailedError({ ...ref, attempt: 1, error: begun.error }, false);
      case "wait":
        await waitUntil(clock, Date.parse(begun.until), options.signal);
        continue;
      case "execute": {
        const { token, attempt, idempotencyKey } = begun;
        let output: unknown;
        try {
          output = asStored(await fn({ attempt, idempotencyKey }), `output of step ${key}`, payloadBytesMax);
        } catch (error) {
          const failed = await driver.failStep(id, key, token, failureOf(error));
          if (failed.final) throw new StepFailedError({ ...ref, attempt, error: toErrorInfo(error) }, false);
          await waitUntil(clock, failed.nextAttemptAt ?? 0, options.signal);
          continue;
        }
        await driver.completeStep(id, key, token, output);
        return output;
      }
    }
  }
}

function failureOf(error: unknown): ErrorInfo {
  const tooLarge = isMillraceError(error, "payload_too_large");
  return { ...toErrorInfo(error), retryable: !(error instanceof NonRetryableError || tooLarge) };
}

/** Resolves at a time, or rejects with the signal's reason. The time itself stands in the log. */
async function waitUntil(clock: Clock, at: number, signal: AbortSignal | undefined): Promise<void> {
  if (Number.isNaN(at)) throw new MillraceError("internal", "The time of the next attempt cannot be read.");
  signal?.throwIfAborted();
  let cleanUp = (): void => undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      const cancel = clock.wake(Math.max(0, at - clock.now()), resolve);
      const onAbort = (): void => reject(signal?.reason as Error);
      signal?.addEventListener("abort", onAbort, { once: true });
      cleanUp = () => {
        cancel();
        signal?.removeEventListener("abort", onAbort);
      };
    });
  } finally {
    cleanUp();
  }
}
