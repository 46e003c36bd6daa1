import { connect } from "node:net";

/**
 * One request to the broker's JetStream API, as an operator's tool sends it: for tests that purge or delete behind the
 * server's back. Speaks just enough of the NATS protocol, since its library has no business in this room.
 */
export function askBroker(
  port: number,
  subject: string,
  body: object = {},
): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    const inbox = `_INBOX.test.${process.pid}.${Math.random().toString(36).slice(2)}`;
    const payload = JSON.stringify(body);
    let text = "";
    const timer = setTimeout(() => socket.destroy(new Error(`${subject} was not answered: ${text}`)), 10_000);
    socket.on("connect", () => {
      socket.write(
        `CONNECT {"verbose":false}\r\nSUB ${inbox} 1\r\nPUB ${subject} ${inbox} ${Buffer.byteLength(payload)}\r\n${payload}\r\n`,
      );
    });
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      const answer = /MSG \S+ 1 (?:\S+ )?(\d+)\r\n([^]*)/.exec(text);
      if (answer?.[2] === undefined || answer[2].length < Number(answer[1])) return;
      socket.destroy();
      const parsed = JSON.parse(answer[2].slice(0, Number(answer[1]))) as Record<string, unknown>;
      if ("error" in parsed) reject(new Error(`${subject}: ${JSON.stringify(parsed["error"])}`));
      else resolve(parsed);
    });
    socket.on("error", reject);
    socket.on("close", () => {
      clearTimeout(timer);
      reject(new Error(`${subject}: the connection ended`));
    });
  });
}
