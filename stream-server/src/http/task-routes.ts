import type { Millrace } from "@millrace/engine";
import {
  assertQueueName,
  isoTime,
  limits,
  MillraceError,
  QueueLimitsRequest,
  RedriveRequest,
  stepKey,
  TaskCompleteRequest,
  TaskFailRequest,
  TaskHeartbeatRequest,
  type DeadLetterRow,
} from "@millrace/schemas";
import { json, type HttpAnswer, type HttpRequest } from "./message.ts";
import { limitParam, parseBody, sequenceParam, singleParam } from "./parse-body.ts";
import type { Params, Route } from "./router.ts";

export interface TaskRoutesOptions {
  readonly millrace: Millrace;
  /** Aborted when the server goes away: waits end with what they have, which is nothing. */
  readonly leaving: AbortSignal;
  /** Polls that may wait at this server. */
  readonly waitingPollsMax: number;
  /** Throws `draining` when no new work is taken. */
  readonly assertAccepting: () => void;
}

const pollWaitDefaultMs = 30_000;
const deadPageDefault = 100;

/** The door for task workers of any language, and for operators of queues. */
export function taskRoutes({
  millrace: { tasks },
  leaving,
  waitingPollsMax,
  assertAccepting,
}: TaskRoutesOptions): readonly Route[] {
  /** Polls that wait, each with what ends it. */
  const polls = new Set<AbortController>();
  leaving.addEventListener("abort", () => {
    for (const each of polls) each.abort();
  });

  async function poll(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    assertAccepting();
    const queue = queueParam(params);
    const waitMs = countParam(request.query, "waitMs", 0, limits.pollWaitMs) ?? pollWaitDefaultMs;
    const max = countParam(request.query, "max", 1, limits.pollTasks) ?? 1;
    const worker = singleParam(request.query, "worker") ?? "";
    if (polls.size >= waitingPollsMax) {
      throw new MillraceError(
        "overloaded",
        `Poll of queue ${queue} refused: ${polls.size} polls wait at this server, the limit is ${waitingPollsMax}. ` +
          "Poll again later, or at another server.",
        { details: { limit: waitingPollsMax, actual: polls.size + 1 } },
      );
    }
    const ending = new AbortController();
    polls.add(ending);
    request.signal.addEventListener("abort", () => ending.abort());
    try {
      return json(200, { tasks: await tasks.poll(queue, { max, waitMs, worker, signal: ending.signal }) });
    } finally {
      polls.delete(ending);
    }
  }

  async function complete(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const { output } = await parseBody(request, TaskCompleteRequest);
    return json(200, await tasks.complete(tokenParam(params), output ?? null));
  }

  async function fail(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const { error, retryAfterMs } = await parseBody(request, TaskFailRequest);
    const { nextAttemptAt, ...failed } = await tasks.fail(
      tokenParam(params),
      error,
      retryAfterMs === undefined ? {} : { retryAfterMs },
    );
    return json(200, { ...failed, nextAttemptAt: nextAttemptAt === null ? null : isoTime(nextAttemptAt) });
  }

  async function heartbeat(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const { details } = await parseBody(request, TaskHeartbeatRequest);
    return json(200, await tasks.heartbeat(tokenParam(params), details ?? null));
  }

  async function list(): Promise<HttpAnswer> {
    return json(200, { items: await tasks.queues(), next: null });
  }

  async function setLimits(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const queue = queueParam(params);
    const wanted = await parseBody(request, QueueLimitsRequest);
    await tasks.setLimits(queue, wanted);
    return json(200, { queue, limits: wanted });
  }

  async function dead({ query }: HttpRequest, params: Params): Promise<HttpAnswer> {
    const after = sequenceParam(query, "after");
    const limit = limitParam(query, limits.pageItems) ?? deadPageDefault;
    const letters = await tasks.deadLetters(queueParam(params), {
      limit,
      ...(after === undefined ? {} : { after }),
    });
    const items = letters.map(({ task, reason, attempts, at }): DeadLetterRow => {
      const { token, workflowId, type, name, occurrence, input } = task;
      const step = stepKey(name, occurrence);
      return { token, workflowId, type, step, input, attempts, reason, at: isoTime(at) };
    });
    const last = letters.at(-1);
    return json(200, {
      items,
      next: letters.length < limit || last === undefined ? null : String(last.sequence),
    });
  }

  async function redrive(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const given = await parseBody(request, RedriveRequest);
    const options = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
    return json(200, await tasks.redrive(queueParam(params), options));
  }

  return [
    { method: "POST", path: "/v1/queues/{queue}/poll", handler: poll },
    { method: "POST", path: "/v1/tasks/{token}/complete", handler: complete },
    { method: "POST", path: "/v1/tasks/{token}/fail", handler: fail },
    { method: "POST", path: "/v1/tasks/{token}/heartbeat", handler: heartbeat },
    { method: "GET", path: "/v1/queues", handler: list },
    { method: "PUT", path: "/v1/queues/{queue}", handler: setLimits },
    { method: "GET", path: "/v1/queues/{queue}/dead", handler: dead },
    { method: "POST", path: "/v1/queues/{queue}/dead/redrive", handler: redrive },
  ];
}

function queueParam(params: Params): string {
  const queue = params["queue"];
  assertQueueName(queue);
  return queue;
}

function tokenParam(params: Params): string {
  return params["token"] ?? "";
}

function countParam(query: URLSearchParams, name: string, min: number, max: number): number | undefined {
  const text = singleParam(query, name);
  if (text === undefined) return undefined;
  const value = Number(text);
  if (/^[0-9]{1,9}$/.test(text) && value >= min && value <= max) return value;
  throw new MillraceError(
    "invalid_request",
    `${name}=${text.slice(0, 80)} is not a whole number from ${min} to ${max}.`,
    { details: { limit: max, actual: text.slice(0, 80) } },
  );
}
