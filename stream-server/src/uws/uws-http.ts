import { limits, MillraceError } from "@millrace/schemas";
import type { HttpRequest as NativeRequest, HttpResponse } from "uWebSockets.js";
import type { HttpAnswer, HttpRequest } from "../http/message.ts";

const statusTexts: Readonly<Record<number, string>> = {
  200: "OK",
  201: "Created",
  400: "Bad Request",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  409: "Conflict",
  410: "Gone",
  413: "Content Too Large",
  422: "Unprocessable Content",
  429: "Too Many Requests",
  500: "Internal Server Error",
  501: "Not Implemented",
  503: "Service Unavailable",
  504: "Gateway Timeout",
  507: "Insufficient Storage",
};

/** One response and whether it may still be touched: never after an abort or an end. */
export class Exchange {
  readonly #res: HttpResponse;
  #done = false;
  #aborted = false;
  #gone: AbortController | null = null;
  readonly #onAborted: (() => void)[] = [];

  constructor(res: HttpResponse) {
    this.#res = res;
    res.onAborted(() => {
      this.#done = true;
      this.#aborted = true;
      for (const listener of this.#onAborted) listener();
    });
  }

  get done(): boolean {
    return this.#done;
  }

  /** Made on first use: few requests wait for anything. */
  get signal(): AbortSignal {
    if (this.#gone === null) {
      const gone = new AbortController();
      this.#gone = gone;
      if (this.#aborted) gone.abort();
      else this.onAborted(() => gone.abort());
    }
    return this.#gone.signal;
  }

  onAborted(listener: () => void): void {
    this.#onAborted.push(listener);
  }

  answer({ status, headers = {}, body, contentType }: HttpAnswer, withBody = true): void {
    if (this.#done) return;
    this.#done = true;
    const res = this.#res;
    res.cork(() => {
      res.writeStatus(`${status} ${statusTexts[status] ?? ""}`);
      if (contentType !== undefined) res.writeHeader("Content-Type", contentType);
      res.writeHeader("Cache-Control", "no-store").writeHeader("X-Content-Type-Options", "nosniff");
      for (const [name, value] of Object.entries(headers)) res.writeHeader(name, value);
      if (withBody) res.end(body);
      else {
        // Given to endWithoutBody, the length is waited for: the response never ends, and the next request is cut off.
        res.writeHeader("Content-Length", String(Buffer.byteLength(body)));
        res.endWithoutBody();
      }
    });
  }
}

/**
 * Copies all of a request, which is gone after the first await, and begins to read its body: chunks come only to a
 * handler that was there from the beginning.
 */
export function readRequest(res: HttpResponse, req: NativeRequest, exchange: Exchange): HttpRequest {
  const headers = new Map<string, string>();
  req.forEach((name, value) => headers.set(name, value));
  const method = req.getCaseSensitiveMethod().toUpperCase();
  const path = req.getUrl();
  const query = new URLSearchParams(req.getQuery());
  const body =
    method === "GET" || method === "HEAD" ? Promise.resolve(Buffer.alloc(0)) : readBody(res, exchange);
  // A route may never ask for it; its rejection then belongs to nobody.
  body.catch(() => undefined);
  return {
    method,
    path,
    query,
    header: (name) => headers.get(name),
    get signal() {
      return exchange.signal;
    },
    body: () => body,
  };
}

function readBody(res: HttpResponse, exchange: Exchange): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    exchange.onAborted(() =>
      reject(new MillraceError("cancelled", "The client went away in the middle of its request.")),
    );
    res.onData((chunk, isLast) => {
      bytes += chunk.byteLength;
      if (bytes > limits.httpBodyBytes) {
        chunks.length = 0;
        if (isLast) {
          reject(
            new MillraceError(
              "body_too_large",
              `The body has ${bytes} bytes, the limit is ${limits.httpBodyBytes}. Keep large data elsewhere and send a reference.`,
              { details: { limit: limits.httpBodyBytes, actual: bytes } },
            ),
          );
        }
        return;
      }
      // The chunk's memory is taken back when this returns.
      chunks.push(Buffer.from(Buffer.from(chunk)));
      if (isLast) resolve(Buffer.concat(chunks));
    });
  });
}
