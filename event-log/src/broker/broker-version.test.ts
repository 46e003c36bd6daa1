import { expect, test } from "vitest";
import {
  assertBrokerVersion,
  brokerVersionIn,
  isBrokerVersionSupported,
  requiredBrokerVersion,
} from "./broker-version.ts";

test.each([
  ["2.14.0", true],
  ["2.14.9", true],
  ["2.15.1", true],
  ["3.0.0", true],
  ["2.13.99", false],
  ["2.9.10", false],
  ["1.99.0", false],
  ["unknown", false],
])("version %s is supported: %s", (version, supported) => {
  expect(isBrokerVersionSupported(version)).toBe(supported);
});

test("reads the version out of what the program prints", () => {
  expect(brokerVersionIn("nats-server: v2.15.1\n")).toBe("2.15.1");
  expect(brokerVersionIn("nats-server: v2.15.0-RC.2\n")).toBe("2.15.0-RC.2");
  expect(brokerVersionIn("usage: something else")).toBeUndefined();
});

test("an old broker is refused with found and required version and the place", () => {
  expect(() => {
    assertBrokerVersion("2.10.27", "nats://example:4222");
  }).toThrow(
    expect.objectContaining({
      code: "broker_version_unsupported",
      message: expect.stringMatching(/nats:\/\/example:4222 is nats-server 2\.10\.27.*requires 2\.14\.0/),
      details: { found: "2.10.27", required: requiredBrokerVersion, where: "nats://example:4222" },
    }),
  );
});
