/** Makes events and reads what is true, through the documented HTTP API only. */
import { HttpApi } from "../e2e/http-api.ts";
import type { Entry, Row } from "./frame.ts";

interface StoredEvent {
  readonly sequence: number;
  readonly index: number;
  readonly type: string;
  readonly at: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export class HttpDriver {
  readonly #api: HttpApi;

  constructor(url: string) {
    this.#api = new HttpApi(url);
  }

  async start(id: string, type: string, more: Readonly<Record<string, unknown>> = {}): Promise<number> {
    const answer = await this.#api.mustPost("/v1/workflows", { id, type, driver: "external", ...more });
    return Number(answer["sequence"]);
  }

  /** Begins and completes a step: two commits. Gives the sequence of the second. */
  async step(id: string, name: string, output: unknown = null): Promise<number> {
    const path = `/v1/workflows/${id}/steps/${encodeURIComponent(name)}`;
    const { token } = await this.#api.mustPost(`${path}/begin`, {});
    const answer = await this.#api.mustPost(`${path}/complete`, { token, output });
    return Number(answer["sequence"]);
  }

  async steps(id: string, count: number, output: (n: number) => unknown = (n) => n): Promise<number> {
    let last = 0;
    for (let n = 1; n <= count; n++) last = await this.step(id, n === 1 ? "work" : `work#${n}`, output(n));
    return last;
  }

  async complete(id: string, output: unknown = null): Promise<number> {
    const answer = await this.#api.mustPost(`/v1/workflows/${id}/complete`, { output });
    return Number(answer["sequence"]);
  }

  /** A run with some steps, from its start to its end. Gives the last sequence. */
  async run(
    id: string,
    type: string,
    steps: number,
    more: Readonly<Record<string, unknown>> = {},
  ): Promise<number> {
    await this.start(id, type, more);
    await this.steps(id, steps);
    return await this.complete(id, { id });
  }

  /** The runs' events in log order, as entries of a stream. `last`: a sequence of theirs that must be in it. */
  async truth(ids: readonly string[], last: number): Promise<Entry[]> {
    const entries: (readonly [Entry, number])[] = [];
    for (const id of ids) {
      await this.get(`/v1/workflows/${id}?min=${last}`);
      let after = "";
      do {
        const page = await this.get(`/v1/workflows/${id}/events?limit=1000${after}`);
        for (const { sequence, index, type, at, data } of page["items"] as readonly StoredEvent[])
          entries.push([[sequence, type, id, at, data], index]);
        after = page["next"] === null ? "" : `&after=${encodeURIComponent(page["next"] as string)}`;
      } while (after !== "");
    }
    return entries.toSorted(([[a], i], [[b], j]) => a - b || i - j).map(([entry]) => entry);
  }

  async rowAt(id: string, sequence: number): Promise<Row> {
    return (await this.get(`/v1/workflows/${id}?at=${sequence}`)) as Row;
  }

  async get(path: string): Promise<Readonly<Record<string, unknown>>> {
    for (let attempt = 1; ; attempt++) {
      const { status, body } = await this.#api.send("GET", path);
      if (status < 300) return body;
      if (status !== 503 || attempt > 50) throw new Error(`GET ${path}: ${status} ${JSON.stringify(body)}`);
    }
  }
}
