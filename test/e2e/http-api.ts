/** Plain HTTP calls as a service in any language makes them, which outlive restarts of the server. */
import { setTimeout as delay } from "node:timers/promises";

const attemptTimeoutMs = 20_000;
const budgetMs = 90_000;
const retryDelayMs = 60;

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Readonly<Record<string, unknown>>;
}

export class HttpApi {
  readonly url: string;

  constructor(url: string) {
    this.url = url;
  }

  /** One attempt. Rejects when no answer came. */
  async send(method: string, path: string, body?: unknown): Promise<Answer> {
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: { "content-type": "application/json" },
      signal: AbortSignal.timeout(attemptTimeoutMs),
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    const parsed = text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
    return { status: response.status, headers: response.headers, body: parsed };
  }

  /** Sends the same request until it is answered with something else than "try again". */
  async post(path: string, body: unknown): Promise<Answer> {
    const deadline = performance.now() + budgetMs;
    let last = "";
    for (;;) {
      try {
        const answer = await this.send("POST", path, body);
        if (answer.status !== 503 && answer.status !== 504) return answer;
        last = JSON.stringify(answer.body);
      } catch (error) {
        // No answer: the server is away, or was killed with our request in hand.
        last = String(error instanceof Error ? (error.cause ?? error) : error);
      }
      if (performance.now() > deadline)
        throw new Error(`POST ${path}: no answer within ${budgetMs} ms; last: ${last}`);
      await delay(retryDelayMs);
    }
  }

  /** As `post`, for a request that must succeed. */
  async mustPost(path: string, body: unknown): Promise<Readonly<Record<string, unknown>>> {
    const answer = await this.post(path, body);
    if (answer.status >= 300)
      throw new Error(`POST ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  }
}
