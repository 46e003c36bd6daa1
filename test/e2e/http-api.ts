/** Plain HTTP calls as a service in any language makes them, which outlive restarts of the server. */
import { Agent, request, type IncomingHttpHeaders, type IncomingMessage } from "node:http";
import { text } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";

const attemptTimeoutMs = 60_000;
const budgetMs = 90_000;
const retryDelayMs = 60;

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Readonly<Record<string, unknown>>;
}

/** A third of the CPU time of `fetch`: with tens of thousands of requests the test measures the server, not itself. */
export class HttpApi {
  readonly url: string;
  readonly #agent = new Agent({ keepAlive: true });

  constructor(url: string) {
    this.url = url;
  }

  /** One attempt. Rejects when no answer came. A body that is a string is sent as it is. */
  async send(method: string, path: string, body?: unknown): Promise<Answer> {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const options = {
        method,
        agent: this.#agent,
        timeout: attemptTimeoutMs,
        headers: { "content-type": "application/json" },
      };
      const sent = request(new URL(path, this.url), options, resolve);
      sent.on("timeout", () => sent.destroy(new Error(`no answer within ${attemptTimeoutMs} ms`)));
      sent.on("error", reject);
      sent.end(typeof body === "string" ? body : JSON.stringify(body));
    });
    const content = await text(response);
    const { statusCode: status = 0, headers } = response;
    return { status, headers, body: content === "" ? {} : (JSON.parse(content) as Record<string, unknown>) };
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
        last = String(error);
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
