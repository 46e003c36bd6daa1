import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { epochOf, formatCursor, parseCursor } from "./cursor.ts";

describe("cursor", () => {
  test("round-trips over every epoch that epochOf makes", () => {
    fc.assert(
      fc.property(
        fc.string(),
        fc.string(),
        fc.string(),
        fc.maxSafeNat(),
        (stream, created, generation, sequence) => {
          const epoch = epochOf(stream, created, generation);
          expect(epoch).toMatch(/^[0-9a-f]{8}$/);
          expect(parseCursor(formatCursor(epoch, sequence))).toEqual({ epoch, sequence });
        },
      ),
    );
  });

  test.each([
    "",
    ".",
    "9f3a01bc",
    "9f3a01bc.",
    ".5",
    "9F3A01BC.5",
    "9f3a01bc.-1",
    "9f3a01bc.01",
    "9f3a01bc.1e3",
    "9f3a01bc.1.2",
  ])("%j is malformed", (text) => {
    expect(() => parseCursor(text)).toThrow(expect.objectContaining({ code: "cursor_malformed" }));
  });

  test.each([null, undefined, 5, {}, "9f3a01bc.9007199254740992"])("%j is malformed too", (value) => {
    expect(() => parseCursor(value)).toThrow(expect.objectContaining({ code: "cursor_malformed" }));
  });

  test("an epoch changes with stream, creation and generation", () => {
    const epochs = [
      epochOf("MILLRACE_a", "2026-01-01T00:00:00.000000001Z", ""),
      epochOf("MILLRACE_b", "2026-01-01T00:00:00.000000001Z", ""),
      epochOf("MILLRACE_a", "2026-01-01T00:00:00.000000002Z", ""),
      epochOf("MILLRACE_a", "2026-01-01T00:00:00.000000001Z", "2"),
    ];
    expect(new Set(epochs).size).toBe(4);
  });
});
