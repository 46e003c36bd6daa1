/**
 * A proxy between clients and a broker that lets single appends and answers come to harm.
 *
 * I1 Without a fault armed, every byte passes in order.
 * I2 Each armed fault strikes one append (a publish to the log's subjects), in the order of arming.
 */
import { connect, createServer, type Socket } from "node:net";
import type { AppendFault } from "./event-log-harness.ts";
import { createFrameReader, type NatsFrame } from "./nats-frames.ts";

export interface FaultProxy {
  readonly port: number;
  strikeNext(fault: AppendFault): Promise<void>;
  close(): Promise<void>;
}

export interface FaultProxyOptions {
  readonly targetPort: number;
  /** Subjects of appends begin with this. */
  readonly subjectPrefix: string;
  /** For `delay-answer`: longer than the clients' time-out. */
  readonly delayMs: number;
}

interface Armed {
  readonly fault: AppendFault;
  readonly struck: () => void;
}

export async function startFaultProxy(options: FaultProxyOptions): Promise<FaultProxy> {
  const armed: Armed[] = [];
  const sockets = new Set<Socket>();

  const server = createServer((client) => {
    const broker = connect({ port: options.targetPort, host: "127.0.0.1", noDelay: true });
    client.setNoDelay(true);
    /** By reply subject: what happens to the answer. */
    const answers = new Map<string, Armed>();
    const cut = (): void => {
      client.destroy();
      broker.destroy();
    };
    for (const socket of [client, broker]) {
      sockets.add(socket);
      socket.on("close", () => {
        sockets.delete(socket);
        cut();
      });
      // A refused or reset connection is what the client is to see: its close says so.
      socket.on("error", cut);
    }

    const fromClient = createFrameReader();
    client.on("data", (chunk) => {
      for (const frame of fromClient(chunk)) sendAppend(frame);
    });
    function sendAppend(frame: NatsFrame): void {
      const [verb, subject = "", reply = ""] = frame.words;
      const isAppend = verb === "HPUB" && subject.startsWith(options.subjectPrefix);
      const next = isAppend ? armed.shift() : undefined;
      if (next === undefined) {
        broker.write(frame.bytes);
        return;
      }
      switch (next.fault) {
        case "lose-append":
          return next.struck();
        case "duplicate-append":
          broker.write(Buffer.concat([frame.bytes, frame.bytes]));
          return next.struck();
        case "cut-mid-append":
          broker.write(frame.bytes.subarray(0, Math.floor(frame.bytes.length / 2)), cut);
          return next.struck();
        default:
          answers.set(reply, next);
          broker.write(frame.bytes);
      }
    }

    const fromBroker = createFrameReader();
    broker.on("data", (chunk) => {
      for (const frame of fromBroker(chunk)) {
        const answer = answers.get(frame.words[1] ?? "");
        if (answer === undefined) {
          client.write(frame.bytes);
          continue;
        }
        answers.delete(frame.words[1] ?? "");
        if (answer.fault === "delay-answer") {
          setTimeout(() => {
            if (!client.destroyed) client.write(frame.bytes);
          }, options.delayMs).unref();
        }
        if (answer.fault === "cut-before-answer") cut();
        answer.struck();
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("The proxy has no port.");

  return {
    port: address.port,
    strikeNext: (fault) => new Promise((struck) => armed.push({ fault, struck })),
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
