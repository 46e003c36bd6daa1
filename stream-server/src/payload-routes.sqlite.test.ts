import { afterEach, expect, it } from "vitest";
import { memoryWorld, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

it("gives out a stored payload as it is stored, and says what is missing or no key", async () => {
  world = await memoryWorld();
  const bytes = Buffer.alloc(1_500_000, "0123456789");
  const { key } = await world.log.blobs.put("order-1", bytes);
  const url = `${world.server.url}/v1/workflows/${key.replace("/", "/payloads/")}`;
  const found = await fetch(url);
  expect(found.status).toBe(200);
  expect(found.headers.get("content-type")).toBe("application/octet-stream");
  expect(Buffer.from(await found.arrayBuffer()).equals(bytes)).toBe(true);
  const head = await fetch(url, { method: "HEAD" });
  expect(head.headers.get("content-length")).toBe("1500000");
  for (const [path, status, code] of [
    ["order-1/payloads/01ARZ3NDEKTSV4RRFFQ69G5FAV", 404, "payload_missing"],
    ["order-2/payloads/" + (key.split("/")[1] ?? ""), 404, "payload_missing"],
    ["order-1/payloads/etc", 400, "invalid_id"],
    ["order-1/payloads/..%2Forder-2", 400, "invalid_id"],
  ] as const) {
    const refused = await fetch(`${world.server.url}/v1/workflows/${path}`);
    expect(refused.status).toBe(status);
    expect(await refused.json()).toMatchObject({ code });
  }
});
