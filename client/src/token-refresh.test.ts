import { afterEach, expect, test } from "vitest";
import { WebSocket } from "ws";
// Loaded when it is needed: here already, since loading takes more than a turn.
import "./token-refresh.ts";
import { createClient, type Client } from "./index.ts";
import { ScriptedServer } from "./testing/scripted-server.ts";

let client: Client | undefined;
let server: ScriptedServer | undefined;
afterEach(async () => {
  client?.close();
  await server?.stop();
});

test("a new token is asked for before the old one expires, and sent in band; one that fails is asked for again", async () => {
  server = await ScriptedServer.start();
  let asked = 0;
  const token = (): string => {
    asked += 1;
    if (asked === 3) throw new Error("the token service is away");
    return `token-${asked}`;
  };
  const alarms: { readonly delayMs: number; readonly fire: () => void }[] = [];
  const timer = (fire: () => void, delayMs: number) => {
    // Only the refresh waits for so long: its alarms are set off by hand.
    if (delayMs >= 100_000) {
      alarms.push({ delayMs, fire });
      return () => undefined;
    }
    const handle = setTimeout(fire, delayMs);
    return () => clearTimeout(handle);
  };
  client = createClient({ url: server.url, WebSocket, token, timer });
  client.watch({});
  const connection = await server.connection();
  expect((await connection.greet({ ttl: 4_000 })).token).toBe("token-1");
  await connection.accept();
  const next = async (): Promise<{ readonly delayMs: number; readonly fire: () => void }> => {
    for (;;) {
      const alarm = alarms.shift();
      if (alarm !== undefined) return alarm;
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const first = await next();
  expect(first.delayMs).toBe(3_000_000);
  first.fire();
  expect(await connection.expect("auth")).toEqual({ t: "auth", token: "token-2" });
  (await next()).fire();
  const again = await next();
  expect(again.delayMs).toBe(250_000);
  again.fire();
  expect(await connection.expect("auth")).toEqual({ t: "auth", token: "token-4" });
});

test("4001 asks for another token with the next connection", async () => {
  server = await ScriptedServer.start();
  let asked = 0;
  client = createClient({
    url: server.url,
    WebSocket,
    backoff: { minMs: 5 },
    token: async () => {
      asked += 1;
      return `token-${asked}`;
    },
  });
  client.watch({});
  const connection = await server.connection();
  expect((await connection.greet()).token).toBe("token-1");
  connection.close(4001, "token expired");
  expect((await (await server.connection()).greet()).token).toBe("token-2");
});
