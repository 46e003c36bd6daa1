/** The benchmark itself, small: that it runs, loses nothing, and says what it promises to say. Never how fast. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const keys = [
  "clients",
  "lost",
  "duplicates",
  "p50Ms",
  "p99Ms",
  "deliveredPerCoreS",
  "bareDeliveredPerCoreS",
  "heapBytesPerConnection",
  "herdLiveMs",
  "herdBrokerReads",
] as const;

it("ends with one JSON object: no client lost an event or got one twice, slow, reconnecting or cut", async () => {
  const program = fileURLToPath(new URL("../../dist/stream/main.js", import.meta.url));
  const child = spawn(process.execPath, [program, "--json", "--clients", "300", "--seconds", "3"]);
  let out = "";
  let err = "";
  child.stdout.on("data", (data: Buffer) => (out += data.toString()));
  child.stderr.on("data", (data: Buffer) => (err += data.toString()));
  const [code] = (await once(child, "exit")) as [number | null];
  expect(code, err).toBe(0);
  const figures = JSON.parse(out.trimEnd().split("\n").at(-1) ?? "") as Record<string, unknown>;
  for (const key of keys) expect(figures[key], key).toSatisfy(Number.isFinite);
  expect(figures).toMatchObject({ clients: 300, lost: 0, duplicates: 0, chainBreaks: 0, refusal: null });
  expect(figures["herdBrokerReads"], "the ring covers the herd").toBe(0);
  // Without these the two zeros above would say nothing.
  expect(figures["appended"]).toBeGreaterThan(100);
  expect(figures["reconnects"]).toBeGreaterThan(300);
});
