/**
 * What workflow code has set to be asked: queries, updates and their validations. Code that only reads.
 *
 * H1 What reads changes nothing: a `ctx` call in it throws, and fails no turn.
 * H2 What reads answers at once: nothing in the log could wake it.
 */
import { isMillraceError, MillraceError } from "@millrace/schemas";
import { asStored, messageBytesMax } from "./as-stored.ts";
import { toErrorInfo } from "./failures.ts";

export interface UpdateHandler {
  readonly handle: (input: unknown) => unknown;
  readonly validate: ((input: unknown) => void) | null;
}

/** Whose code it is. */
export interface HandlersOwner {
  readonly workflowId: string;
  readonly definition: { readonly type: string; readonly version: string };
}

export class Handlers {
  readonly #owner: HandlersOwner;
  // Made on first use: most code is never asked.
  #queries: Map<string, (input: unknown) => unknown> | null = null;
  #updates: Map<string, UpdateHandler> | null = null;
  #reading = false;

  constructor(owner: HandlersOwner) {
    this.#owner = owner;
  }

  /** Code of the user reads at the moment. */
  get reading(): boolean {
    return this.#reading;
  }

  onQuery(name: string, handler: (input: unknown) => unknown): void {
    (this.#queries ??= new Map()).set(name, handler);
  }

  onUpdate(name: string, handler: UpdateHandler): void {
    (this.#updates ??= new Map()).set(name, handler);
  }

  /** `query_unknown`, `query_failed`. */
  query(name: string, input: unknown): unknown {
    const handler = this.#queries?.get(name);
    if (handler === undefined) throw this.#unknown("query", name, this.#queries);
    try {
      return asStored(
        this.read(() => handler(input)),
        `answer to query ${name}`,
        messageBytesMax,
      );
    } catch (cause) {
      throw this.#asError("query_failed", `Query ${name} of ${this.#owner.workflowId} failed`, cause);
    }
  }

  /** `update_unknown`. */
  update(name: string): UpdateHandler {
    const handler = this.#updates?.get(name);
    if (handler === undefined) throw this.#unknown("update", name, this.#updates);
    return handler;
  }

  /** `update_unknown`, `update_refused`. */
  validate(name: string, input: unknown): void {
    const { validate } = this.update(name);
    if (validate === null) return;
    try {
      this.read(() => validate(input));
    } catch (cause) {
      throw this.#asError("update_refused", `Update ${name} of ${this.#owner.workflowId} refused`, cause);
    }
  }

  /** H1, H2. */
  read(code: () => unknown): unknown {
    this.#reading = true;
    let answer: unknown;
    try {
      answer = code();
    } finally {
      this.#reading = false;
    }
    if (!(answer instanceof Promise)) return answer;
    // Nobody awaits it: its rejection would end the process.
    answer.catch(() => undefined);
    throw new TypeError(
      "it is async, and must answer at once from what the code knows. Let a step find it out.",
    );
  }

  #asError(code: "query_failed" | "update_refused", attempted: string, cause: unknown): Error {
    if (isMillraceError(cause)) return cause;
    return new MillraceError(code, `${attempted}: ${toErrorInfo(cause).message}`, { cause });
  }

  #unknown(
    kind: "query" | "update",
    name: string,
    handlers: ReadonlyMap<string, unknown> | null,
  ): MillraceError {
    const { workflowId, definition } = this.#owner;
    const known = [...(handlers?.keys() ?? [])];
    const has = known.length === 0 ? "none" : known.join(", ");
    return new MillraceError(
      kind === "query" ? "query_unknown" : "update_unknown",
      `The code of ${workflowId} (${definition.type}, version ${definition.version}) has no ${kind} ` +
        `${JSON.stringify(name)}; it has ${has}. Check the name, or wait until the code has set it.`,
      { details: { name, known } },
    );
  }
}
