import { createHash } from "node:crypto";
import type { Millrace, StartOptions } from "@millrace/engine";
import type { ListOptions, Projection } from "@millrace/projector";
import {
  assertWorkflowId,
  isTraceparent,
  limits,
  MillraceError,
  parseStepRef,
  ReasonRequest,
  RunCompleteRequest,
  RunFailRequest,
  StartRequest,
  StepBeginRequest,
  StepCompleteRequest,
  StepFailRequest,
  toRow,
} from "@millrace/schemas";
import { defined } from "./defined.ts";
import { json, type HttpAnswer, type HttpRequest } from "./message.ts";
import { assertIdempotencyKey } from "./operator-routes.ts";
import { limitParam, parseBody, sequenceParam, singleParam } from "./parse-body.ts";
import type { Params, Route } from "./router.ts";
import { runFilterParams } from "./run-filter.ts";

export interface WorkflowRoutesOptions {
  readonly millrace: Millrace;
  readonly projection: Projection;
  /** How long `min` and `at` wait for the projector. */
  readonly projectorWaitMs: number;
  /** Throws `draining` when no new work is taken. */
  readonly assertAccepting: () => void;
}

/** Start, list, look at, cancel, terminate, and the driver protocol. */
export function workflowRoutes({
  millrace,
  projection,
  projectorWaitMs,
  assertAccepting,
}: WorkflowRoutesOptions): readonly Route[] {
  async function start(request: HttpRequest): Promise<HttpAnswer> {
    assertAccepting();
    const { type, input, id: given, signal, ...rest } = await parseBody(request, StartRequest);
    const key = request.header("idempotency-key");
    const id = given ?? (key === undefined ? undefined : idOfKey(key));
    const traceparent = request.header("traceparent");
    const options: StartOptions = {
      ...defined(rest),
      ...defined({ id, signal: signal === undefined ? undefined : defined(signal) }),
      // What is not valid is taken for none: https://www.w3.org/TR/trace-context/#a-traceparent-is-received
      ...(traceparent !== undefined && isTraceparent(traceparent) ? { traceparent } : {}),
    };
    const { handle, created, sequence } = await millrace.startByType(type, input, options);
    return json(
      created ? 201 : 200,
      { id: handle.id, type, created, sequence },
      { Location: `/v1/workflows/${handle.id}` },
    );
  }

  function list({ query }: HttpRequest): HttpAnswer {
    const options: ListOptions = {
      ...runFilterParams(query),
      ...defined({ after: singleParam(query, "after"), limit: limitParam(query, limits.pageItems) }),
    };
    const { items, next, sequence } = projection.list(options);
    return json(200, { items, next }, { "Millrace-Sequence": String(sequence) });
  }

  async function look({ query }: HttpRequest, params: Params): Promise<HttpAnswer> {
    const id = idParam(params);
    const at = sequenceParam(query, "at");
    const min = sequenceParam(query, "min") ?? at;
    if (min !== undefined) await projection.waitFor(min, projectorWaitMs);
    if (at !== undefined) {
      const state = projection.stateAt(id, at);
      if (state === null) throw notStartedAt(id, at);
      return json(200, toRow(state), { "Millrace-Sequence": String(at) });
    }
    const { rows, sequence } = projection.snapshot({ workflow: [id] }, 1);
    if (rows[0] === undefined) throw notFound(id, sequence);
    return json(200, rows[0], { "Millrace-Sequence": String(sequence) });
  }

  function events({ query }: HttpRequest, params: Params): HttpAnswer {
    const id = idParam(params);
    const after = singleParam(query, "after");
    const page = projection.events(id, defined({ after, limit: limitParam(query, limits.pageItems) }));
    if (page.items.length === 0) {
      const { rows, sequence } = projection.snapshot({ workflow: [id] }, 1);
      if (rows.length === 0) throw notFound(id, sequence);
    }
    return json(200, page);
  }

  async function cancel(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const id = idParam(params);
    const reason = await parseBody(request, ReasonRequest);
    return json(200, await millrace.handle(id).cancel(defined(reason)));
  }

  async function terminate(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const id = idParam(params);
    const reason = await parseBody(request, ReasonRequest);
    return json(200, await millrace.handle(id).terminate(defined(reason)));
  }

  async function begin(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const [id, step] = [idParam(params), stepParam(params)];
    const options = await parseBody(request, StepBeginRequest);
    return json(200, await millrace.driver.begin(id, step, defined(options)));
  }

  async function completeStep(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const [id, step] = [idParam(params), stepParam(params)];
    const { token, output } = await parseBody(request, StepCompleteRequest);
    return json(200, await millrace.driver.completeStep(id, step, token, output ?? null));
  }

  async function failStep(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const [id, step] = [idParam(params), stepParam(params)];
    const { token, error } = await parseBody(request, StepFailRequest);
    const { nextAttemptAt, ...failed } = await millrace.driver.failStep(id, step, token, error);
    const next = nextAttemptAt === null ? null : new Date(nextAttemptAt).toISOString();
    return json(200, { ...failed, nextAttemptAt: next });
  }

  async function complete(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const id = idParam(params);
    const { output } = await parseBody(request, RunCompleteRequest);
    return json(200, await millrace.driver.complete(id, output ?? null));
  }

  async function fail(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const id = idParam(params);
    const { error } = await parseBody(request, RunFailRequest);
    return json(200, await millrace.driver.fail(id, error));
  }

  return [
    { method: "POST", path: "/v1/workflows", handler: start },
    { method: "GET", path: "/v1/workflows", handler: list },
    { method: "GET", path: "/v1/workflows/{id}", handler: look },
    { method: "GET", path: "/v1/workflows/{id}/events", handler: events },
    { method: "POST", path: "/v1/workflows/{id}/cancel", handler: cancel },
    { method: "POST", path: "/v1/workflows/{id}/terminate", handler: terminate },
    { method: "POST", path: "/v1/workflows/{id}/steps/{step}/begin", handler: begin },
    { method: "POST", path: "/v1/workflows/{id}/steps/{step}/complete", handler: completeStep },
    { method: "POST", path: "/v1/workflows/{id}/steps/{step}/fail", handler: failStep },
    { method: "POST", path: "/v1/workflows/{id}/complete", handler: complete },
    { method: "POST", path: "/v1/workflows/{id}/fail", handler: fail },
  ];
}

/**
 * The same key gives the same id, so a repeated start finds the run of the first one, and another start under the
 * same key is `workflow_exists`.
 */
function idOfKey(key: string): string {
  assertIdempotencyKey(key);
  return `key-${createHash("sha256").update(key).digest("hex").slice(0, 32)}`;
}

function idParam(params: Params): string {
  const id = params["id"];
  assertWorkflowId(id);
  return id;
}

function stepParam(params: Params): string {
  const step = params["step"] ?? "";
  parseStepRef(step);
  return step;
}

function notFound(id: string, sequence: number): MillraceError {
  return new MillraceError(
    "workflow_not_found",
    `There is no workflow ${id} as of sequence ${sequence}. If you have just started it, wait for it with ` +
      `GET /v1/workflows/${id}?min= and the sequence of the start's answer.`,
    { details: { id } },
  );
}

function notStartedAt(id: string, at: number): MillraceError {
  return new MillraceError(
    "workflow_not_found",
    `There is no workflow ${id} at sequence ${at}: it starts later, or there is none. GET /v1/workflows/${id}/events has its sequences.`,
    { details: { id, at } },
  );
}
