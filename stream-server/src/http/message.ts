/** HTTP as the routes see it: everything was read before, nothing is a stream. */
export interface HttpRequest {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  /** By lower-case name; absent headers are undefined. */
  header(name: string): string | undefined;
  /** Aborted when the client goes away before it has its answer. */
  readonly signal: AbortSignal;
  /** Reads the whole body; rejects with `body_too_large`, or when the client went away. */
  body(): Promise<Buffer>;
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: string | Uint8Array;
  readonly contentType?: string;
}

export function json(
  status: number,
  value: unknown,
  headers: Readonly<Record<string, string>> = {},
): HttpAnswer {
  return { status, headers, body: JSON.stringify(value), contentType: "application/json" };
}
