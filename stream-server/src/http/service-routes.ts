import { isMillraceError, MillraceError, streamSubprotocol } from "@millrace/schemas";
import type { StreamHub } from "../stream-hub.ts";
import { within } from "../within.ts";
import { json, type HttpAnswer } from "./message.ts";
import type { Route } from "./router.ts";

/** Readiness asks the broker; a load balancer's own time limit is seldom below this. */
const readyWithinMs = 2_000;

/** Alive, ready, metrics, and what is here. */
export function serviceRoutes(
  hub: StreamHub,
  projectorLagMax: number,
  workflowPaths: readonly Route[],
): readonly Route[] {
  async function ready(): Promise<HttpAnswer> {
    let reason: string | null;
    try {
      reason = await within(hub.notReady(projectorLagMax), readyWithinMs);
    } catch (error) {
      reason = isMillraceError(error) ? `${error.code}: ${error.message}` : String(error);
    }
    if (reason !== null) throw new MillraceError("unavailable", `Not ready: ${reason}.`);
    return json(200, { ready: true, epoch: hub.epoch, head: hub.seam.head });
  }

  async function metrics(): Promise<HttpAnswer> {
    return { status: 200, body: await hub.metrics.text(), contentType: hub.metrics.registry.contentType };
  }

  const paths = [
    ...workflowPaths.map(({ method, path }) => `${method} ${path}`),
    "GET /v1/stream (WebSocket, subprotocol millrace.v1)",
    "GET /api/workflows/{id}/updates (WebSocket)",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
  ];
  return [
    {
      method: "GET",
      path: "/",
      handler: () => json(200, { name: "millrace", node: hub.settings.node, paths }),
    },
    // Only requests without a WebSocket upgrade come here.
    { method: "GET", path: "/v1/stream", handler: () => refuseWithoutUpgrade("/v1/stream") },
    {
      method: "GET",
      path: "/api/workflows/{id}/updates",
      handler: () => refuseWithoutUpgrade("/api/workflows/{id}/updates"),
    },
    { method: "GET", path: "/healthz", handler: () => json(200, { alive: true }) },
    { method: "GET", path: "/readyz", handler: ready },
    { method: "GET", path: "/metrics", handler: metrics },
  ];
}

function refuseWithoutUpgrade(path: string): never {
  throw new MillraceError(
    "invalid_request",
    `GET ${path} refused: it is a WebSocket, and the request has no upgrade to one. Connect with ws:// or wss://` +
      (path === "/v1/stream" ? `, subprotocol "${streamSubprotocol}".` : "."),
  );
}
