/** A service that is the orchestrator of its runs: two calls per step, and "begin again" after whatever went wrong. */
import { setTimeout as delay } from "node:timers/promises";
import type { HttpApi } from "./http-api.ts";

export interface ExternalCase {
  readonly id: string;
  readonly type: string;
  readonly input: unknown;
  readonly steps: readonly ExternalStep[];
  readonly output: unknown;
}

/** A case whose steps show only as it goes on. */
export interface OpenCase extends Omit<ExternalCase, "steps"> {
  readonly steps: Iterable<ExternalStep>;
  /** Between two steps, milliseconds. */
  readonly pauseMs: () => number;
}

export interface ExternalStep {
  /** `name`, or `name#n` for the n-th of that name. */
  readonly step: string;
  readonly output: unknown;
  /** Attempts that fail before one works. */
  readonly failures: number;
}

export async function driveCase(api: HttpApi, given: ExternalCase): Promise<void> {
  const plan = given.steps.map(({ step }) => step);
  await drive(api, { ...given, pauseMs: () => 0 }, plan);
}

export async function driveOpenCase(api: HttpApi, given: OpenCase): Promise<void> {
  await drive(api, given, []);
}

async function drive(api: HttpApi, given: OpenCase, plan: readonly string[]): Promise<void> {
  const { id, type, input, steps, output, pauseMs } = given;
  await api.mustPost("/v1/workflows", { type, id, input, driver: "external", steps: plan });
  for (const step of steps) {
    await driveStep(api, id, step);
    const ms = pauseMs();
    if (ms > 0) await delay(ms);
  }
  const { status, body } = await api.post(`/v1/workflows/${id}/complete`, { output });
  // The answer to the first call was lost: it is completed all the same, and the log shows how often.
  if (status >= 300 && body["code"] !== "workflow_closed")
    throw new Error(`${id}: ${status} ${JSON.stringify(body)}`);
}

async function driveStep(api: HttpApi, id: string, { step, output, failures }: ExternalStep): Promise<void> {
  const path = `/v1/workflows/${id}/steps/${encodeURIComponent(step)}`;
  for (;;) {
    const begun = await api.mustPost(`${path}/begin`, { maxAttempts: 100 });
    if (begun["outcome"] === "completed") return;
    if (begun["outcome"] === "wait") {
      await delay(Math.max(0, Date.parse(String(begun["until"])) - Date.now()));
      continue;
    }
    if (begun["outcome"] !== "execute") throw new Error(`${id} ${step}: ${JSON.stringify(begun)}`);
    const { token, attempt } = begun;
    const failed = Number(attempt) <= failures;
    const answer = failed
      ? await api.post(`${path}/fail`, { token, error: { message: "not yet", retryable: true } })
      : await api.post(`${path}/complete`, { token, output });
    // A repeated call whose first answer was lost may find its attempt over; `begin` says where the step stands.
    if (answer.status >= 300 && answer.status !== 409) {
      throw new Error(`${id} ${step}: ${answer.status} ${JSON.stringify(answer.body)}`);
    }
  }
}
