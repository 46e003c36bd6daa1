import { describe, expect, it } from "vitest";
import { readyLine, readyValue, type Ready } from "./ready-line.ts";

const ready: Ready = {
  url: "http://127.0.0.1:8001",
  natsUrl: "nats://127.0.0.1:4222",
  durability: "default",
  dataDir: "/data",
  namespace: "default",
  projection: "/data/projection-default.sqlite",
  parts: { broker: 2, engine: 1 },
  pid: 1,
  examples: true,
};

describe("readyLine", () => {
  it("is one line with addresses, durability in words, data folder and a command that starts an example", () => {
    const line = readyLine(ready);
    expect(line).not.toContain("\n");
    for (const part of [
      ready.url,
      "ws://127.0.0.1:8001/v1/stream",
      ready.natsUrl,
      "not a power cut",
      "data /data",
    ]) {
      expect(line).toContain(part);
    }
    expect(line).toMatch(/curl -d '\{"type":"hello",.*\}' http:\/\/127\.0\.0\.1:8001\/v1\/workflows$/);
  });

  it("gives a command that works without the examples too", () => {
    const body = /curl -d '(.*)' /.exec(readyLine({ ...ready, examples: false }))?.[1] ?? "";
    expect(JSON.parse(body)).toMatchObject({ driver: "external" });
  });

  it("names the parts when the stream server runs elsewhere", () => {
    expect(readyLine({ ...ready, url: null })).toContain("parts broker, engine");
    expect(readyValue({ ...ready, url: null })).toMatchObject({ ready: true, url: null, streamUrl: null });
  });
});
