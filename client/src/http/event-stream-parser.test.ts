import fc from "fast-check";
import { expect, test } from "vitest";
import { EventStreamParser, type StreamEvent } from "./event-stream-parser.ts";

function parse(...pieces: readonly string[]): StreamEvent[] {
  const parser = new EventStreamParser();
  return pieces.flatMap((piece) => parser.push(piece));
}

const only = (data: string, id = "", type = "message"): StreamEvent[] => [{ type, data, id }];

test.each([
  ["a plain event", "data: a\n\n", only("a")],
  ["CR", "data: a\r\r", only("a")],
  ["CRLF", "data: a\r\n\r\n", only("a")],
  ["a byte order mark at the begin", "\uFEFFdata: a\n\n", only("a")],
  ["a second byte order mark is part of a name", "\uFEFF\uFEFFdata: a\n\n", []],
  ["several lines of data", "data: a\ndata:b\ndata\n\n", only("a\nb\n")],
  ["only one blank is taken off", "data:  a\n\n", only(" a")],
  ["type and id", "event: ev\nid: 9f3a.7\ndata: a\n\n", only("a", "9f3a.7", "ev")],
  ["an id with NUL is ignored", "id: 1\nid: 2\0\ndata: a\n\n", only("a", "1")],
  ["an empty id forgets", "id: 1\nid\ndata: a\n\n", only("a")],
  ["comments and unknown fields", ": hello\nfoo: 1\ndata: a\n\n", only("a")],
  ["without data there is no event", "event: ev\n\n", []],
  ["what is not ended does not come", "data: a\n", []],
  ["the type is forgotten after an event", "event: x\n\ndata: a\n\n", only("a")],
])("%s", (_name, text, expected) => {
  expect(parse(text)).toEqual(expected);
});

test("an id stays for the events after it", () => {
  expect(parse("id: 1\ndata: a\n\ndata: b\n\n").map(({ id }) => id)).toEqual(["1", "1"]);
});

test("retry is taken in digits only", () => {
  const parser = new EventStreamParser();
  parser.push("retry: 2760\nretry: 5s\nretry: -1\n\n");
  expect(parser.retryMs).toBe(2_760);
});

test("an event without an end is given up, not kept for ever", () => {
  const parser = new EventStreamParser();
  const piece = "x".repeat(1_024 * 1_024);
  expect(() => {
    for (let megabytes = 0; megabytes < 10; megabytes += 1) parser.push(piece);
  }).toThrow(/more than 8388608 characters/);
});

test("wherever the text is cut, the events are the same", () => {
  const line = fc.constantFrom("data: a", "data: ü🚦", "id: 9f.1", "event: ev", "", "", ": c", "retry: 5");
  const end = fc.constantFrom("\n", "\r", "\r\n");
  const text = fc.array(fc.tuple(line, end), { maxLength: 30 }).map((lines) => lines.flat().join(""));
  fc.assert(
    fc.property(text, fc.array(fc.nat(200), { maxLength: 20 }), (whole, cuts) => {
      const places = [...new Set([0, ...cuts.filter((at) => at < whole.length)])].sort((a, b) => a - b);
      const pieces = places.map((at, index) => whole.slice(at, places[index + 1]));
      expect(parse(...pieces)).toEqual(parse(whole));
    }),
  );
});
