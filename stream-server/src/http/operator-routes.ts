import { createHash } from "node:crypto";
import type { Millrace } from "@millrace/engine";
import type { Projection } from "@millrace/projector";
import {
  assertWorkflowId,
  BulkRequest,
  ForkRequest,
  isMillraceError,
  limits,
  MigrateRequest,
  MillraceError,
  QueryRequest,
  ReasonRequest,
  ResetRequest,
  RetryRequest,
  SignalRequest,
  UpdateRequest,
  type BulkAnswer,
  type BulkCommand,
  type BulkPreview,
} from "@millrace/schemas";
import { defined } from "./defined.ts";
import { json, type HttpAnswer, type HttpRequest } from "./message.ts";
import { parseBody } from "./parse-body.ts";
import type { Params, Route } from "./router.ts";
import { bulkRunFilter } from "./run-filter.ts";

export interface OperatorRoutesOptions {
  readonly millrace: Millrace;
  readonly projection: Projection;
  /** Throws `draining` when no new work is taken. */
  readonly assertAccepting: () => void;
}

/** How long an answer to a query or update is waited for: below what proxies allow a request. */
const answerMs = 25_000;
/** Runs of a bulk command that are worked on at the same time: appends of different runs do not wait for each other. */
const bulkConcurrency = 16;
const bulkPageDefault = 100;
const bulkShown = 20;
const idempotencyKeyChars = 256;

/** Pause, resume, retry, reset, fork, migrate, signals, queries, updates, and commands for many runs at once. */
export function operatorRoutes({
  millrace,
  projection,
  assertAccepting,
}: OperatorRoutesOptions): readonly Route[] {
  const handleOf = (params: Params) => {
    const id = params["id"];
    assertWorkflowId(id);
    return millrace.handle(id);
  };

  async function pause(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    return json(200, await handleOf(params).pause(defined(await parseBody(request, ReasonRequest))));
  }

  async function resume(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    return json(200, await handleOf(params).resume(defined(await parseBody(request, ReasonRequest))));
  }

  async function retry(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    return json(200, await handleOf(params).retry(defined(await parseBody(request, RetryRequest))));
  }

  async function reset(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    return json(200, await handleOf(params).reset(defined(await parseBody(request, ResetRequest))));
  }

  async function fork(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    assertAccepting();
    const options = defined(await parseBody(request, ForkRequest));
    const forked = await handleOf(params).fork(options);
    return json(forked.created ? 201 : 200, forked, { Location: `/v1/workflows/${forked.id}` });
  }

  async function migrate(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const { toVersion, ...reason } = await parseBody(request, MigrateRequest);
    return json(200, await handleOf(params).migrate(toVersion, defined(reason)));
  }

  async function signal(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const { payload, by } = await parseBody(request, SignalRequest);
    const id = idempotencyKey(request);
    const answer = await handleOf(params).signal(params["name"] ?? "", payload, defined({ id, by }));
    return json(200, answer);
  }

  async function query(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const { input } = await parseBody(request, QueryRequest);
    const value = await handleOf(params).query(params["name"] ?? "", input, { timeoutMs: answerMs });
    return json(200, { value: value ?? null });
  }

  async function update(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const { input } = await parseBody(request, UpdateRequest);
    const id = idempotencyKey(request);
    const options = defined({ id, timeoutMs: answerMs });
    const value = await handleOf(params).update(params["name"] ?? "", input, options);
    return json(200, { value: value ?? null });
  }

  async function bulk(request: HttpRequest): Promise<HttpAnswer> {
    const { filter, command, dryRun, limit = bulkPageDefault, after } = await parseBody(request, BulkRequest);
    const runs = bulkRunFilter(filter);
    if (dryRun === true) {
      const counted = projection.count(runs, limits.bulkCounted + 1);
      const { items } = projection.list({ ...runs, limit: bulkShown });
      const preview: BulkPreview = {
        count: Math.min(counted, limits.bulkCounted),
        exact: counted <= limits.bulkCounted,
        ids: items.map(({ id }) => id),
      };
      return json(200, preview);
    }
    if (Object.keys(runs).length === 0) {
      throw new MillraceError(
        "invalid_request",
        `Bulk ${command.kind} refused: its filter is empty, which is every run there is. Say which, e.g. by type and status.`,
      );
    }
    const page = projection.list({ ...runs, limit, ...defined({ after }) });
    const key = idempotencyKey(request);
    let sequence = 0;
    let done = 0;
    const failed: BulkAnswer["failed"][number][] = [];
    await forEach(page.items, bulkConcurrency, async ({ id }) => {
      try {
        sequence = Math.max(sequence, await carryOut(millrace, id, command, key));
        done++;
      } catch (error) {
        // One run's refusal is that run's. What ails the broker will ail the rest: it ends the page.
        if (!isMillraceError(error) || (error.retryable && error.code !== "conflict")) throw error;
        failed.push({ id, code: error.code, message: error.message });
      }
    });
    const answer: BulkAnswer = { done, failed, next: page.next, sequence };
    return json(200, answer);
  }

  return [
    { method: "POST", path: "/v1/workflows/bulk", handler: bulk },
    { method: "POST", path: "/v1/workflows/{id}/pause", handler: pause },
    { method: "POST", path: "/v1/workflows/{id}/resume", handler: resume },
    { method: "POST", path: "/v1/workflows/{id}/retry", handler: retry },
    { method: "POST", path: "/v1/workflows/{id}/reset", handler: reset },
    { method: "POST", path: "/v1/workflows/{id}/fork", handler: fork },
    { method: "POST", path: "/v1/workflows/{id}/migrate", handler: migrate },
    { method: "POST", path: "/v1/workflows/{id}/signals/{name}", handler: signal },
    { method: "POST", path: "/v1/workflows/{id}/queries/{name}", handler: query },
    { method: "POST", path: "/v1/workflows/{id}/updates/{name}", handler: update },
  ];
}

/** The sequence of what was written, or of the run when it was so before. */
async function carryOut(
  millrace: Millrace,
  id: string,
  command: BulkCommand,
  key: string | undefined,
): Promise<number> {
  const handle = millrace.handle(id);
  switch (command.kind) {
    case "cancel":
    case "terminate":
    case "pause":
    case "resume": {
      const { kind, ...reason } = command;
      return (await handle[kind](defined(reason))).sequence;
    }
    case "retry":
    case "reset": {
      const { kind, ...options } = command;
      return (await handle[kind](defined(options))).sequence;
    }
    case "migrate": {
      const { kind: _, toVersion, ...reason } = command;
      return (await handle.migrate(toVersion, defined(reason))).sequence;
    }
    case "signal":
      return (await handle.signal(command.name, command.payload, defined({ id: key, by: command.by })))
        .sequence;
  }
}

/** At most so many at the same time; ends with the first that rejects, once those under way have ended. */
async function forEach<T>(
  items: readonly T[],
  concurrency: number,
  act: (item: T) => Promise<void>,
): Promise<void> {
  const left = items[Symbol.iterator]();
  let stopped = false;
  const work = async (): Promise<void> => {
    for (let next = left.next(); next.done !== true && !stopped; next = left.next()) {
      try {
        await act(next.value);
      } catch (error) {
        stopped = true;
        throw error;
      }
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: concurrency }, work));
  for (const each of ended) if (each.status === "rejected") throw each.reason;
}

/** As an id within the run: whatever the key's characters, and of bounded length. */
function idempotencyKey(request: HttpRequest): string | undefined {
  const key = request.header("idempotency-key");
  if (key === undefined) return undefined;
  assertIdempotencyKey(key);
  return createHash("sha256").update(key).digest("hex").slice(0, 32);
}

export function assertIdempotencyKey(key: string): void {
  if (key.length >= 1 && key.length <= idempotencyKeyChars) return;
  throw new MillraceError(
    "limit_exceeded",
    `Idempotency-Key has ${key.length} characters, the limit is 1 to ${idempotencyKeyChars}. Send a key within it, or none.`,
    { details: { limit: idempotencyKeyChars, actual: key.length } },
  );
}
