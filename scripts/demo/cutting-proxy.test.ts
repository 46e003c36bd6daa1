import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { afterEach, beforeEach, expect, it } from "vitest";
import { ChangeSignal } from "./change-signal.ts";
import { startCuttingProxy, type CuttingProxy } from "./cutting-proxy.ts";

/** Answers a "handshake", then echoes. */
const server = createServer((socket) => {
  socket.on("error", () => undefined);
  socket.write("HTTP/1.1 101\r\n\r\n");
  socket.pipe(socket);
});
const change = new ChangeSignal();
const signal = AbortSignal.timeout(10_000);
let proxy: CuttingProxy;

beforeEach(async () => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  proxy = await startCuttingProxy({ host: "127.0.0.1", port }, () => change.changed());
});

afterEach(async () => {
  await proxy.close();
  server.close();
  await once(server, "close");
});

it("passes bytes on until it cuts, and counts what it cut (I1)", async () => {
  const client = open();
  await change.until(() => proxy.connected, signal);
  client.socket.write("ping");
  await client.receives("HTTP/1.1 101\r\n\r\nping");
  expect(proxy.cut()).toBe(true);
  await client.closed;
  expect([proxy.cuts, proxy.connected, proxy.cut()]).toEqual([1, false, false]);
});

it("refuses while dark, which is no cut (I2)", async () => {
  proxy.dark();
  await open().closed;
  expect(proxy.cuts).toBe(0);
});

it("cuts the next connection after so many bytes beyond the handshake, and only that one", async () => {
  proxy.light({ cutAfterBytes: 10 });
  const client = open();
  client.socket.write("0123456789abcdef");
  await client.closed;
  expect(client.text()).toBe("HTTP/1.1 101\r\n\r\n0123456789");
  expect(proxy.cuts).toBe(1);

  const next = open();
  next.socket.write("0123456789abcdef");
  await next.receives("HTTP/1.1 101\r\n\r\n0123456789abcdef");
  next.socket.destroy();
  await change.until(() => !proxy.connected, signal);
  expect(proxy.cuts).toBe(1);
});

function open(): {
  readonly socket: Socket;
  readonly closed: Promise<unknown>;
  text(): string;
  receives(text: string): Promise<void>;
} {
  const [host, port] = proxy.address.split(":");
  const socket = connect(Number(port), host);
  let received = "";
  socket.on("error", () => undefined);
  socket.on("data", (chunk: Buffer) => {
    received += chunk.toString("latin1");
    change.changed();
  });
  const text = (): string => received;
  return {
    socket,
    closed: new Promise((resolve) => socket.on("close", resolve)),
    text,
    receives: (wanted) => change.until(() => received === wanted, signal),
  };
}
