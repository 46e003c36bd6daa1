import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { errors } from "nats";
import { expect, test } from "vitest";
import { brokerAuthError, connectionOptionsFromEnvironment } from "./connection-options.ts";

test("no MILLRACE_NATS_URL means the embedded broker", () => {
  expect(connectionOptionsFromEnvironment({})).toBeUndefined();
  expect(connectionOptionsFromEnvironment({ MILLRACE_NATS_URL: " " })).toBeUndefined();
});

test.each([
  ["nats://localhost:4222", { servers: ["localhost:4222"] }],
  ["a:4222, nats://b:4223", { servers: ["a:4222", "b:4223"] }],
  ["nats://us%40er:p%3Aw@a:1", { servers: ["a:1"], user: "us@er", pass: "p:w" }],
  ["nats://secret@a:1,nats://secret@b:1", { servers: ["a:1", "b:1"], token: "secret" }],
  ["tls://a:1", { servers: ["a:1"], tls: {} }],
  ["nats://[::1]:4222", { servers: ["[::1]:4222"] }],
])("%s", (url, expected) => {
  expect(connectionOptionsFromEnvironment({ MILLRACE_NATS_URL: url })).toEqual(expected);
});

test("variables win over credentials in the URL", () => {
  const env = {
    MILLRACE_NATS_URL: "nats://old:gone@a:1",
    MILLRACE_NATS_USER: "ann",
    MILLRACE_NATS_PASSWORD: "pw",
  };
  expect(connectionOptionsFromEnvironment(env)).toEqual({ servers: ["a:1"], user: "ann", pass: "pw" });
});

test.each([
  ["a scheme that this client does not speak", { MILLRACE_NATS_URL: "ws://a:1" }, /scheme "ws:/],
  ["no URL", { MILLRACE_NATS_URL: "nats://hunter2@:::" }, /not a URL/],
  ["a user without password", { MILLRACE_NATS_URL: "a:1", MILLRACE_NATS_USER: "ann" }, /only one of/],
  [
    "two kinds",
    { MILLRACE_NATS_URL: "a:1", MILLRACE_NATS_TOKEN: "hunter2", MILLRACE_NATS_CREDS: "/x" },
    /together/,
  ],
  ["unlike servers", { MILLRACE_NATS_URL: "nats://a:hunter2@a,nats://b:hunter2@b" }, /different credentials/],
  ["a certificate without key", { MILLRACE_NATS_URL: "a:1", MILLRACE_NATS_CERT: "/x" }, /only one of/],
])("refuses %s, without printing a secret", (_name, env, message) => {
  const refused = (): unknown => connectionOptionsFromEnvironment(env);
  expect(refused).toThrow(
    expect.objectContaining({ code: "invalid_request", message: expect.stringMatching(message) }),
  );
  expect(refused).not.toThrow(/hunter2/);
});

test.each(["MILLRACE_NATS_CREDS", "MILLRACE_NATS_CA"])(
  "a file of %s that cannot be read is named",
  (variable) => {
    expect(() =>
      connectionOptionsFromEnvironment({ MILLRACE_NATS_URL: "a:1", [variable]: "/no/such/file" }),
    ).toThrow(
      expect.objectContaining({ code: "broker_auth_failed", details: { variable, path: "/no/such/file" } }),
    );
  },
);

test("a CA alone makes TLS a must", () => {
  const ca = join(mkdtempSync(join(tmpdir(), "millrace-ca-")), "ca.pem");
  writeFileSync(ca, "");
  expect(connectionOptionsFromEnvironment({ MILLRACE_NATS_URL: "a:1", MILLRACE_NATS_CA: ca })).toEqual({
    servers: ["a:1"],
    tls: { caFile: ca },
  });
});

test("only refusals become broker_auth_failed, also when another error wraps them", () => {
  const refused = new errors.AuthorizationError("Authorization Violation");
  expect(brokerAuthError(new Error("connect", { cause: refused }), ["a:1"])?.code).toBe("broker_auth_failed");
  expect(brokerAuthError(new errors.ConnectionError("connection refused"), "a:1")).toBeUndefined();
  expect(brokerAuthError("text", "a:1")).toBeUndefined();
});
