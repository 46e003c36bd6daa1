import { describe, expect, test } from "vitest";
import { errorCodeOf, isMillraceError, MillraceError } from "./errors.ts";

describe("MillraceError", () => {
  test("carries code, retryable by code, details and cause", () => {
    const cause = new Error("socket");
    const error = new MillraceError("conflict", "refused", { cause, details: { expected: 1 } });
    expect(error).toMatchObject({ code: "conflict", retryable: true, details: { expected: 1 }, cause });
    expect(new MillraceError("unavailable", "closed", { retryable: false }).retryable).toBe(false);
    expect(new MillraceError("invalid_id", "no").retryable).toBe(false);
  });

  test("is recognised by code, also from another copy of the package", () => {
    const foreign = Object.assign(new Error("refused"), { code: "conflict", retryable: true, details: {} });
    expect(isMillraceError(foreign)).toBe(true);
    expect(isMillraceError(foreign, "conflict")).toBe(true);
    expect(isMillraceError(foreign, "timeout")).toBe(false);
    expect(isMillraceError(Object.assign(new Error("x"), { code: "ECONNREFUSED" }))).toBe(false);
    expect(isMillraceError(Object.assign(new Error("x"), { code: "toString", retryable: true }))).toBe(false);
    expect(isMillraceError("conflict")).toBe(false);
  });

  test("a code from the wire that we do not know is internal", () => {
    expect(errorCodeOf("conflict")).toBe("conflict");
    for (const value of ["nope", "constructor", "", null, 5]) expect(errorCodeOf(value)).toBe("internal");
  });
});
