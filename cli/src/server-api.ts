import { errorCodeOf, MillraceError } from "@millrace/schemas";

/** A list is the parameter several times. */
export type Query = Readonly<Record<string, string | readonly string[] | undefined>>;

/** The HTTP API of a stream server. Rejects with the server's own error (code, message, details) or `unavailable`. */
export interface ServerApi {
  readonly url: string;
  get(path: string, query?: Query): Promise<unknown>;
  /** `headers` beside the content type. */
  post(path: string, body: unknown, headers?: Readonly<Record<string, string>>): Promise<unknown>;
  put(path: string, body: unknown): Promise<unknown>;
  delete(path: string, body: unknown): Promise<unknown>;
  /** What is there, whatever it is. */
  bytes(path: string): Promise<Uint8Array>;
}

type Method = "GET" | "POST" | "PUT" | "DELETE";

/** Longer than the server waits for anything by itself. */
const requestTimeoutMs = 30_000;

export function createServerApi(url: string): ServerApi {
  const send = async (
    method: Method,
    path: string,
    body?: unknown,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<{ readonly attempt: string; readonly status: number; readonly bytes: Uint8Array }> => {
    const attempt = `${method} ${url}${path}`;
    try {
      const response = await fetch(`${url}${path}`, {
        method,
        signal: AbortSignal.timeout(requestTimeoutMs),
        ...(body === undefined
          ? {}
          : { headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) }),
      });
      return { attempt, status: response.status, bytes: new Uint8Array(await response.arrayBuffer()) };
    } catch (cause) {
      throw new MillraceError(
        "unavailable",
        `${attempt} failed: ${reasonOf(cause)}. Is a stream server there? Start one with "millrace dev", or give its address with --url or MILLRACE_URL.`,
        { cause, details: { url } },
      );
    }
  };
  const call = async (...request: Parameters<typeof send>): Promise<unknown> => {
    const { attempt, status, bytes } = await send(...request);
    const text = new TextDecoder().decode(bytes);
    const answer = parse(text);
    if (status < 400 && answer !== undefined) return answer;
    throw refusal(attempt, status, answer, text);
  };
  return {
    url,
    get: (path, query = {}) => {
      const pairs = Object.entries(query).flatMap(([name, value]) =>
        (typeof value === "object" ? value : value === undefined ? [] : [value]).map(
          (each): [string, string] => [name, each],
        ),
      );
      const search = new URLSearchParams(pairs).toString();
      return call("GET", search === "" ? path : `${path}?${search}`);
    },
    post: (path, body, headers) => call("POST", path, body, headers),
    put: (path, body) => call("PUT", path, body),
    delete: (path, body) => call("DELETE", path, body),
    async bytes(path) {
      const { attempt, status, bytes } = await send("GET", path);
      if (status < 400) return bytes;
      const text = new TextDecoder().decode(bytes);
      throw refusal(attempt, status, parse(text), text);
    },
  };
}

/** Undefined when it is no JSON. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // Said by whoever looks at the answer, who knows the status too.
    return undefined;
  }
}

function refusal(attempt: string, status: number, answer: unknown, text: string): MillraceError {
  if (typeof answer === "object" && answer !== null && "code" in answer && typeof answer.code === "string") {
    const {
      type: _type,
      title: _title,
      status: _status,
      detail,
      code,
      retryable,
      ...details
    } = answer as Record<string, unknown>;
    const message = typeof detail === "string" ? detail : `${attempt} answered ${status}.`;
    return new MillraceError(errorCodeOf(code), message, {
      details,
      ...(typeof retryable === "boolean" ? { retryable } : {}),
    });
  }
  return new MillraceError(
    status >= 500 ? "unavailable" : "invalid_request",
    `${attempt} answered ${status} and nothing that a Millrace stream server says (${JSON.stringify(text.slice(0, 120))}). ` +
      `Check that the address is that of one.`,
  );
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // `fetch` says only "fetch failed"; what happened is in the cause.
  const { cause } = error;
  if (cause instanceof AggregateError && cause.errors[0] instanceof Error) return cause.errors[0].message;
  return cause instanceof Error && cause.message !== "" ? cause.message : error.message;
}
