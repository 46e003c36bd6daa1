import { isMillraceError, MillraceError } from "@millrace/schemas";
import type { HttpAnswer, HttpRequest } from "./message.ts";
import { problemAnswer } from "./problem.ts";

export type Params = Readonly<Record<string, string>>;
export type Handler = (request: HttpRequest, params: Params) => HttpAnswer | Promise<HttpAnswer>;

export interface Route {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** Segments; `{name}` matches one of them, URL-decoded. */
  readonly path: string;
  readonly handler: Handler;
}

export interface Answered {
  readonly answer: HttpAnswer;
  /** The route's path, for metrics: never the request's own, which has no bound. */
  readonly route: string;
  /** Set when the failure is ours and belongs in the log. */
  readonly failure?: unknown;
}

/** Finds the route and answers, always: an error becomes problem details. */
export function createRouter(routes: readonly Route[]): (request: HttpRequest) => Promise<Answered> {
  const table = routes.map((route) => ({ ...route, segments: route.path.split("/") }));

  return async (request) => {
    let route = "unknown";
    try {
      const path = request.path.split("/");
      const found = table.filter(({ segments }) => matches(segments, path));
      if (found[0] === undefined) {
        throw new MillraceError(
          "route_unknown",
          `There is nothing at ${request.path.slice(0, 200)}. GET / lists what is here.`,
        );
      }
      route = found[0].path;
      const wanted = request.method === "HEAD" ? "GET" : request.method;
      const chosen = found.find(({ method }) => method === wanted);
      if (chosen === undefined) {
        const allowed = found.map(({ method }) => method).join(", ");
        throw new MillraceError(
          "method_not_allowed",
          `${request.method} is not for ${route}. Use ${allowed}.`,
          {
            details: { allowed },
          },
        );
      }
      return { route, answer: await chosen.handler(request, paramsOf(chosen.segments, path)) };
    } catch (error) {
      const answer = withAllow(problemAnswer(error), error);
      return answer.status >= 500 && answer.status !== 503
        ? { route, answer, failure: error }
        : { route, answer };
    }
  };
}

function withAllow(answer: HttpAnswer, error: unknown): HttpAnswer {
  if (!isMillraceError(error, "method_not_allowed")) return answer;
  return { ...answer, headers: { ...answer.headers, Allow: String(error.details["allowed"]) } };
}

function matches(segments: readonly string[], path: readonly string[]): boolean {
  return (
    segments.length === path.length &&
    segments.every((segment, i) => segment.startsWith("{") || segment === path[i])
  );
}

function paramsOf(segments: readonly string[], path: readonly string[]): Params {
  const params: Record<string, string> = {};
  for (const [i, segment] of segments.entries()) {
    if (!segment.startsWith("{")) continue;
    const name = segment.slice(1, -1);
    const text = path[i] ?? "";
    try {
      params[name] = decodeURIComponent(text);
    } catch (cause) {
      throw new MillraceError(
        "invalid_request",
        `${name} in the path is not valid URL encoding: ${text.slice(0, 160)}.`,
        {
          cause,
        },
      );
    }
  }
  return params;
}
