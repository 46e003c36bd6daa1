import { createHash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { BeginOutcome, Problem } from "@millrace/schemas";
import type { ExpectedRun } from "./check-runs.ts";

export const casesType = "case";
const steps = ["receive", "assess", "decide"] as const;

/** What a case's driver is to do, and what its steps must give. */
export interface Case extends ExpectedRun {
  /** Begin each step twice, as a driver that crashed in between does: only the second token counts. */
  readonly beginsTwice: boolean;
  /** Try the first of the two tokens: it must be refused. */
  readonly triesStaleToken: boolean;
}

export function planCases(count: number): Case[] {
  return Array.from({ length: count }, (_none, number) => {
    const id = `case-${String(number + 1).padStart(3, "0")}`;
    const outputs = Object.fromEntries(steps.map((step) => [step, stepOutput(id, step)]));
    return { id, type: casesType, outputs, beginsTwice: number % 3 === 0, triesStaleToken: number % 9 === 0 };
  });
}

function stepOutput(id: string, step: string): unknown {
  return { by: "demo-driver", mark: createHash("sha256").update(`${id}/${step}`).digest("hex").slice(0, 16) };
}

export interface CaseDriver {
  /** Requests that were sent again because the server was away. */
  readonly resent: number;
  /** Stale tokens that were refused. */
  readonly staleRefused: number;
  /** Resolves when the case is completed. Throws what does not go as the driver protocol promises. */
  drive(planned: Case): Promise<void>;
}

const requestTimeoutMs = 10_000;
const resendDelayMsMax = 400;

interface Answer {
  readonly status: number;
  readonly body: unknown;
}

/** An orchestrator outside: plain HTTP, two calls per step, every call sent again until it is answered. */
export function createCaseDriver(url: string, signal: AbortSignal): CaseDriver {
  const counts = { resent: 0, staleRefused: 0 };

  async function post(path: string, body: object): Promise<Answer> {
    for (let delayMs = 25; ; delayMs = Math.min(2 * delayMs, resendDelayMsMax)) {
      signal.throwIfAborted();
      const answer = await postOnce(path, body);
      if (answer !== null && answer.status < 500) return answer;
      counts.resent += 1;
      await delay(delayMs, undefined, { signal });
    }
  }

  async function postOnce(path: string, body: object): Promise<Answer | null> {
    try {
      const response = await fetch(`${url}${path}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
        signal: AbortSignal.any([signal, AbortSignal.timeout(requestTimeoutMs)]),
      });
      return { status: response.status, body: await response.json() };
    } catch {
      // No answer: the server is away. Every command is idempotent, so it is simply sent again.
      return null;
    }
  }

  async function command<Body>(path: string, body: object): Promise<Body> {
    const answer = await post(path, body);
    if (answer.status >= 400) throw new Error(`POST ${path} was refused: ${JSON.stringify(answer.body)}`);
    return answer.body as Body;
  }

  async function begin(path: string): Promise<Extract<BeginOutcome, { outcome: "execute" }>> {
    const begun = await command<BeginOutcome>(`${path}/begin`, { maxAttempts: 100 });
    if (begun.outcome !== "execute")
      throw new Error(`POST ${path}/begin answered ${begun.outcome}, not execute.`);
    return begun;
  }

  async function refuseStale(path: string, token: string): Promise<void> {
    const { status, body } = await post(`${path}/complete`, { token, output: "stale" });
    const code = (body as Partial<Problem>).code;
    if (status !== 409 || code !== "attempt_superseded") {
      throw new Error(
        `POST ${path}/complete with a stale token answered ${status} ${code}, not 409 attempt_superseded.`,
      );
    }
    counts.staleRefused += 1;
  }

  return {
    get resent() {
      return counts.resent;
    },
    get staleRefused() {
      return counts.staleRefused;
    },
    async drive({ id, outputs, beginsTwice, triesStaleToken }) {
      await command("/v1/workflows", { type: casesType, id, driver: "external", steps, input: { id } });
      for (const [name, output] of Object.entries(outputs)) {
        const path = `/v1/workflows/${id}/steps/${name}`;
        let { token } = await begin(path);
        if (beginsTwice) {
          const stale = token;
          ({ token } = await begin(path));
          if (triesStaleToken) await refuseStale(path, stale);
        }
        await command(`${path}/complete`, { token, output });
        if (!beginsTwice) continue;
        const again = await command<BeginOutcome>(`${path}/begin`, {});
        if (again.outcome !== "completed" || JSON.stringify(again.output) !== JSON.stringify(output)) {
          throw new Error(`POST ${path}/begin of a completed step answered ${JSON.stringify(again)}.`);
        }
      }
      await command(`/v1/workflows/${id}/complete`, { output: { decided: true } });
    },
  };
}
