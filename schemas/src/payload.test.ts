import { describe, expect, test } from "vitest";
import { eventSchemas } from "./events.ts";
import { isStoredForm, parseStoredForm, payloadFields } from "./payload.ts";

describe("payload fields", () => {
  test("are all fields of the events that can hold anything", () => {
    const open = Object.entries(eventSchemas).flatMap(([type, schema]) =>
      Object.entries(schema.entries)
        .filter(([, field]) => "wrapped" in field && field.wrapped.type === "unknown")
        .map(([field]) => `${type}.${field}`),
    );
    const listed = Object.entries(payloadFields).flatMap(([type, fields]) =>
      fields.map((field) => `${type}.${field}`),
    );
    expect(listed.sort()).toEqual(open.sort());
  });
});

describe("stored forms", () => {
  test("are told from user data by one key at the root", () => {
    for (const plain of [undefined, null, 1, "$millrace", [], {}, { a: { $millrace: 1 } }])
      expect(isStoredForm(plain)).toBe(false);
    expect(isStoredForm({ $millrace: "whatever it holds" })).toBe(true);
  });

  test("are one of four shapes, and nothing in between", () => {
    const blob = { blob: "a/01ARZ3NDEKTSV4RRFFQ69G5FAV", size: 1, sha256: "00" };
    for (const inner of [
      { value: 1 },
      { codec: "x", data: "" },
      { codec: "x", key: "1", data: "" },
      blob,
      { ...blob, codec: "x", key: "1" },
    ])
      expect(parseStoredForm({ $millrace: inner })).toEqual(inner);
    for (const inner of [
      null,
      {},
      { data: "" },
      { value: 1, data: "" },
      { blob: "a" },
      { ...blob, key: "1" },
    ])
      expect(parseStoredForm({ $millrace: inner })).toBeNull();
  });
});
