import { expect, it } from "vitest";
import { closeCodes } from "@millrace/schemas";
import { Connection, type Socket } from "./connection.ts";

it("a socket that dropped a frame is closed, and nothing follows: a hole would look like a sent frame", () => {
  const sent: string[] = [];
  const ends: number[] = [];
  const socket: Socket = {
    send: (payload) => sent.push(String(payload)) < 2,
    bufferedBytes: () => 0,
    ping: () => undefined,
    end: (code) => ends.push(code),
  };
  const connection = new Connection(socket, 0);
  for (const frame of ["taken", "dropped", "after the hole"]) connection.send(frame);
  expect(sent).toEqual(["taken", "dropped"]);
  expect(ends).toEqual([closeCodes.internal]);
  expect(connection.open).toBe(false);
});
