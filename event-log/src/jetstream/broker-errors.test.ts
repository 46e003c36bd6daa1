import { JetStreamApiError } from "@nats-io/jetstream";
import { errors } from "nats";
import { expect, test } from "vitest";
import { MillraceError } from "@millrace/schemas";
import { codeOf, toMillraceError } from "./broker-errors.ts";

test.each([
  [10071, 400, "wrong last sequence: 3", "conflict"],
  [10164, 400, "wrong last sequence", "conflict"],
  [10163, 503, "expected last sequence unavailable", "unavailable"],
  [10077, 400, "maximum messages per subject exceeded", "limit_exceeded"],
  [10077, 503, "maximum bytes exceeded", "log_full"],
  [10077, 503, "write /data: no space left on device", "log_full"],
  [10047, 500, "insufficient storage resources available", "log_full"],
  [10054, 400, "message size exceeds maximum allowed", "payload_too_large"],
  [10167, 429, "too many requests", "overloaded"],
  [10008, 503, "JetStream system temporarily unavailable", "unavailable"],
  [99999, 503, "something new", "unavailable"],
  [99999, 400, "something new", "internal"],
])("%d (%d, %s) is %s", (errCode, status, description, code) => {
  expect(codeOf(errCode, status, description)).toBe(code);
  const thrown = new JetStreamApiError({ err_code: errCode, code: status, description });
  expect(toMillraceError(thrown, "Append to order-42")).toMatchObject({
    code,
    details: { brokerCode: errCode },
  });
});

test("what the client library throws is told apart by class, and keeps its cause", () => {
  const cases = [
    [new errors.TimeoutError(), "unavailable"],
    [new errors.ClosedConnectionError(), "unavailable"],
    [new errors.RequestError("no responders"), "unavailable"],
    [
      Object.assign(new Error("connect ECONNREFUSED"), { syscall: "connect", code: "ECONNREFUSED" }),
      "unavailable",
    ],
    [new errors.AuthorizationError("Authorization Violation"), "broker_auth_failed"],
    [new errors.PermissionViolationError("no", "publish", "mr.a"), "broker_auth_failed"],
    [new Error("a bug"), "internal"],
  ] as const;
  for (const [cause, code] of cases) {
    expect(toMillraceError(cause, "Loading order-42")).toMatchObject({ code, cause });
    expect(toMillraceError(cause, "Loading order-42").message).toContain("Loading order-42");
  }
  const ours = new MillraceError("log_full", "full");
  expect(toMillraceError(ours, "x")).toBe(ours);
});
