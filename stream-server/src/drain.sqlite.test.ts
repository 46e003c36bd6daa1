import { Agent, request } from "node:http";
import { afterEach, expect, it, vi } from "vitest";
import type { Problem } from "@millrace/schemas";
import { memoryWorld, type World } from "./testing/world.ts";

let world: World;
const agent = new Agent({ keepAlive: true, maxSockets: 1 });
afterEach(async () => {
  agent.destroy();
  await world.close();
});

/** A request on the one connection that `agent` keeps open: a server that drains takes no new ones. */
function onKeptConnection(method: string, path: string, body?: unknown): Promise<[number, Problem]> {
  return new Promise((resolve, reject) => {
    const sent = request(world.server.url + path, { method, agent }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      answer.on("end", () => resolve([answer.statusCode ?? 0, JSON.parse(text) as Problem]));
    });
    sent.on("error", reject);
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

it("while it drains: not ready, no new work, alive, and the request in hand is answered before it closes", async () => {
  world = await memoryWorld();
  const external = { type: "permit", driver: "external" };
  expect((await onKeptConnection("POST", "/v1/workflows", { ...external, id: "a" }))[0]).toBe(201);
  expect((await onKeptConnection("GET", "/readyz"))[0]).toBe(200);

  const waiting = vi.spyOn(world.projection, "waitFor");
  const inHand = fetch(`${world.server.url}/v1/workflows/b?min=2`);
  await expect.poll(() => waiting.mock.calls.length).toBe(1);
  let drained = false;
  const draining = world.server.drain().then(() => (drained = true));

  const [ready, why] = await onKeptConnection("GET", "/readyz");
  expect([ready, why.detail]).toEqual([503, expect.stringContaining("draining")]);
  const [status, problem] = await onKeptConnection("POST", "/v1/workflows", { ...external, id: "refused" });
  expect([status, problem.code]).toEqual([503, "draining"]);
  expect(await world.log.load("refused")).toEqual([]);
  expect((await onKeptConnection("GET", "/healthz"))[0]).toBe(200);
  expect(drained).toBe(false);

  await world.append("b", "permit", [
    { type: "WorkflowStarted", data: { version: "1", input: null, driver: "external" } },
  ]);
  expect((await inHand).status).toBe(200);
  await draining;
});
