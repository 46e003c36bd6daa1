import { Buffer } from "node:buffer";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { closeReason } from "./close-reason.ts";

const utf8 = new TextDecoder("utf-8", { fatal: true });

describe("closeReason", () => {
  test("is the longest beginning of the reason that fits and is UTF-8", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 200 }), (reason) => {
        const bytes = closeReason(reason);
        const text = utf8.decode(bytes);
        expect(reason.startsWith(text)).toBe(true);
        // The character that did not fit has at most four bytes.
        expect(bytes.byteLength).toBeLessThanOrEqual(123);
        expect(bytes.byteLength).toBeGreaterThanOrEqual(Math.min(120, Buffer.byteLength(reason)));
      }),
    );
  });

  test.each(["\u00fc", "\u20ac", "\u{1F69A}"])(
    "does not cut %s in two, wherever the end falls",
    (character) => {
      for (let before = 118; before <= 124; before++) {
        const reason = "x".repeat(before) + character.repeat(4);
        expect(reason.startsWith(utf8.decode(closeReason(reason)))).toBe(true);
      }
    },
  );
});
