/** Sends a case to the server and says what is wrong with what it did, or null. */
import { request, type Agent, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import { WebSocket } from "ws";
import { within } from "../e2e/deadline.ts";
import type { HttpCase } from "./http-cases.ts";
import type { SocketCase } from "./socket-cases.ts";

/** A server that says nothing for so long hangs; it waits up to 2 s for a projector that is behind. */
const hangMs = 30_000;
const shownChars = 400;

/** What the server answered, by code: a run that meets few of them tests little. */
export const seen = new Map<string, number>();
const count = (code: string): void => {
  seen.set(code, (seen.get(code) ?? 0) + 1);
};

export async function sendHttp(url: string, agent: Agent, given: HttpCase): Promise<string | null> {
  const { method, path, headers, body } = given;
  const { status, type, text } = await within(
    `an answer to ${method} ${path}`,
    hangMs,
    new Promise<{ status: number; type: string; text: string }>((resolve, reject) => {
      // Node sends none with OPTIONS or DELETE, and the body would be read as the next request.
      const length = body === null ? {} : { "content-length": String(body.byteLength) };
      const sent = request(url, { method, path, headers: { ...headers, ...length }, agent }, (answer) => {
        readAnswer(answer).then(resolve, reject);
      });
      sent.on("error", reject);
      sent.end(body ?? undefined);
    }),
  );
  if (status < 400) {
    count(`http ${status}`);
    return null;
  }
  const shown = `${status} ${type}: ${text.slice(0, shownChars)}`;
  if (status === 500) return `a failure of ours: ${shown}`;
  if (!type.startsWith("application/problem+json")) return `no problem details: ${shown}`;
  if (method === "HEAD") return null;
  const problem = JSON.parse(text) as Readonly<Record<string, unknown>>;
  count(`${status} ${String(problem["code"])}`);
  return typeof problem["code"] === "string" && problem["status"] === status ? null : `no code: ${shown}`;
}

async function readAnswer(answer: IncomingMessage): Promise<{ status: number; type: string; text: string }> {
  const { statusCode: status = 0, headers } = answer;
  const type = headers["content-type"] ?? "";
  // A stream has no end: that it has begun is the answer.
  if (status === 200 && type.startsWith("text/event-stream")) {
    answer.destroy();
    return { status, type, text: "" };
  }
  let text = "";
  for await (const chunk of answer) text += String(chunk);
  return { status, type, text };
}

/** Every connection ends with a code of ours, or is alive afterwards. */
export async function sendFrames(url: string, { hello, messages }: SocketCase): Promise<string | null> {
  const socket = new WebSocket(`${url.replace("http", "ws")}/v1/stream`, "millrace.v1");
  try {
    return await within(
      "a pong or a close",
      hangMs,
      new Promise<string | null>((resolve, reject) => {
        const sentinel = 0.5;
        socket.on("open", () => {
          if (hello) socket.send('{"t":"hello","v":1}');
          for (const message of messages) socket.send("text" in message ? message.text : message.bytes);
          socket.send(JSON.stringify({ t: "ping", n: sentinel }));
        });
        socket.on("message", (data: Buffer) => {
          const frame = JSON.parse(data.toString()) as Readonly<Record<string, unknown>>;
          if (frame["t"] !== "ev")
            count(`${String(frame["t"])} ${frame["t"] === "err" ? String(frame["code"]) : ""}`);
          if (frame["t"] === "err" && (typeof frame["code"] !== "string" || frame["code"] === "internal"))
            resolve(`an err that says nothing: ${data.toString().slice(0, shownChars)}`);
          if (frame["t"] === "pong" && frame["n"] === sentinel) resolve(null);
        });
        socket.on("close", (code, reason) => {
          if (code >= 4000) count(`close ${code}`);
          resolve(code >= 4000 && code <= 4999 ? null : `closed with ${code} ${reason.toString()}`);
        });
        socket.on("error", reject);
      }),
    );
  } finally {
    socket.terminate();
  }
}

/** Bytes that may be no protocol at all: the server has to let go of the connection. */
export async function sendBytes(url: string, parts: readonly Uint8Array[]): Promise<string | null> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port) });
  try {
    await within(
      "the server closes a connection whose other end is closed",
      hangMs,
      new Promise<void>((resolve) => {
        // Reset is an end as well.
        socket.on("error", () => undefined);
        socket.on("close", () => resolve());
        socket.on("connect", () => {
          for (const part of parts) socket.write(part);
          socket.end();
        });
        socket.resume();
      }),
    );
    return null;
  } finally {
    socket.destroy();
  }
}
