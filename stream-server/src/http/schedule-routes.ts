import type { Millrace, ScheduleOptions } from "@millrace/engine";
import type { Projection } from "@millrace/projector";
import {
  assertScheduleId,
  assertWorkflowType,
  limits,
  MillraceError,
  ReasonRequest,
  ScheduleBackfillRequest,
  ScheduleCreateRequest,
  ScheduleTriggerRequest,
  ScheduleUpdateRequest,
} from "@millrace/schemas";
import { defined } from "./defined.ts";
import { json, type HttpAnswer, type HttpRequest } from "./message.ts";
import { limitParam, parseBody, sequenceParam, singleParam } from "./parse-body.ts";
import type { Params, Route } from "./router.ts";

export interface ScheduleRoutesOptions {
  readonly millrace: Millrace;
  readonly projection: Projection;
  /** How long `min` waits for the projector. */
  readonly projectorWaitMs: number;
  /** Throws `draining` when no new work is taken. */
  readonly assertAccepting: () => void;
}

/** Create, list, look at, update, pause, resume, trigger, backfill, delete. */
export function scheduleRoutes({
  millrace,
  projection,
  projectorWaitMs,
  assertAccepting,
}: ScheduleRoutesOptions): readonly Route[] {
  const { schedules } = millrace;

  async function create(request: HttpRequest): Promise<HttpAnswer> {
    assertAccepting();
    const { id, allowUnregistered = false, ...schedule } = await parseBody(request, ScheduleCreateRequest);
    const { created, sequence } = await schedules.create(id, schedule as ScheduleOptions, {
      allowUnregistered,
    });
    return json(created ? 201 : 200, { id, created, sequence }, { Location: `/v1/schedules/${id}` });
  }

  async function update(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    assertAccepting();
    const id = idParam(params);
    const { allowUnregistered = false, ...schedule } = await parseBody(request, ScheduleUpdateRequest);
    return json(200, await schedules.update(id, schedule as ScheduleOptions, { allowUnregistered }));
  }

  async function list({ query }: HttpRequest): Promise<HttpAnswer> {
    const status = singleParam(query, "status");
    if (status !== undefined && status !== "active" && status !== "paused") {
      throw new MillraceError("invalid_request", `status=${status.slice(0, 80)} is none of active, paused.`);
    }
    const type = singleParam(query, "type");
    if (type !== undefined) assertWorkflowType(type);
    await waitFor(query);
    const { items, next, sequence } = projection.schedules(
      defined({
        status,
        type,
        after: singleParam(query, "after"),
        limit: limitParam(query, limits.pageItems),
      }),
    );
    return json(200, { items, next }, { "Millrace-Sequence": String(sequence) });
  }

  async function look({ query }: HttpRequest, params: Params): Promise<HttpAnswer> {
    const id = idParam(params);
    await waitFor(query);
    const { row, sequence } = projection.schedule(id);
    if (row === null) throw notFound(id, sequence);
    return json(200, row, { "Millrace-Sequence": String(sequence) });
  }

  function events({ query }: HttpRequest, params: Params): HttpAnswer {
    const id = idParam(params);
    const page = projection.events(
      id,
      defined({ after: singleParam(query, "after"), limit: limitParam(query, limits.pageItems) }),
    );
    const { row, sequence } = projection.schedule(id);
    const isSchedules = page.items[0]?.type.startsWith("Schedule") ?? row !== null;
    if (!isSchedules) throw notFound(id, sequence);
    return json(200, page);
  }

  async function pause(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const id = idParam(params);
    return json(200, await schedules.pause(id, defined(await parseBody(request, ReasonRequest))));
  }

  async function resume(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const id = idParam(params);
    return json(200, await schedules.resume(id, defined(await parseBody(request, ReasonRequest))));
  }

  async function remove(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const id = idParam(params);
    return json(200, await schedules.delete(id, defined(await parseBody(request, ReasonRequest))));
  }

  async function trigger(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    assertAccepting();
    const id = idParam(params);
    const { by } = await parseBody(request, ScheduleTriggerRequest);
    const key = request.header("idempotency-key");
    return json(200, await schedules.trigger(id, defined({ by, key })));
  }

  async function backfill(request: HttpRequest, params: Params): Promise<HttpAnswer> {
    assertAccepting();
    const id = idParam(params);
    return json(
      200,
      await schedules.backfill(id, defined(await parseBody(request, ScheduleBackfillRequest))),
    );
  }

  async function waitFor(query: URLSearchParams): Promise<void> {
    const min = sequenceParam(query, "min");
    if (min !== undefined) await projection.waitFor(min, projectorWaitMs);
  }

  return [
    { method: "POST", path: "/v1/schedules", handler: create },
    { method: "GET", path: "/v1/schedules", handler: list },
    { method: "GET", path: "/v1/schedules/{id}", handler: look },
    { method: "PUT", path: "/v1/schedules/{id}", handler: update },
    { method: "DELETE", path: "/v1/schedules/{id}", handler: remove },
    { method: "GET", path: "/v1/schedules/{id}/events", handler: events },
    { method: "POST", path: "/v1/schedules/{id}/pause", handler: pause },
    { method: "POST", path: "/v1/schedules/{id}/resume", handler: resume },
    { method: "POST", path: "/v1/schedules/{id}/trigger", handler: trigger },
    { method: "POST", path: "/v1/schedules/{id}/backfill", handler: backfill },
  ];
}

function idParam(params: Params): string {
  const id = params["id"];
  assertScheduleId(id);
  return id;
}

function notFound(id: string, sequence: number): MillraceError {
  return new MillraceError(
    "schedule_not_found",
    `There is no schedule ${id} as of sequence ${sequence}. If you have just created it, wait for it with ` +
      `GET /v1/schedules/${id}?min= and the sequence of that answer.`,
    { details: { id } },
  );
}
