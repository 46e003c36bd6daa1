/**
 * Passes TCP connections on to a server and cuts them when told to.
 *
 * Owns: its sockets and the count of cuts. Does not own: when to cut.
 *
 * I1 A cut ends both sides of an established connection at once, whatever is on its way; it counts only then.
 * I2 What ended by itself, or was refused while dark, is no cut.
 *
 * Tested by `cutting-proxy.test.ts`.
 */
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

export interface CuttingProxy {
  /** `host:port` to connect to instead of the server. */
  readonly address: string;
  /** Connections cut so far. */
  readonly cuts: number;
  /** Whether a connection is there to be cut. */
  readonly connected: boolean;
  /** Cuts the connection that is there; false when there is none. */
  cut(): boolean;
  /** Refuses connections until `light`. */
  dark(): void;
  /** Accepts connections again; the next one is cut after so many bytes from the server, beyond the handshake. */
  light(options: { readonly cutAfterBytes: number }): void;
  close(): Promise<void>;
}

interface Passage {
  readonly client: Socket;
  readonly server: Socket;
}

const handshakeEnd = "\r\n\r\n";

/** Listens on a free port of 127.0.0.1. `onChange` follows each connection that begins or ends. */
export async function startCuttingProxy(
  target: { readonly host: string; readonly port: number },
  onChange: () => void,
): Promise<CuttingProxy> {
  const passages = new Set<Passage>();
  let cuts = 0;
  let isDark = false;
  let cutAfterBytes: number | null = null;

  const end = ({ client, server }: Passage): void => {
    client.destroy();
    server.destroy();
  };
  const cutPassage = (passage: Passage): void => {
    passages.delete(passage);
    end(passage);
    cuts += 1;
    onChange();
  };

  const listener = createServer((client) => {
    // A connection that breaks is what this is about: its end is handled by "close".
    client.on("error", () => undefined);
    if (isDark) {
      client.destroy();
      return;
    }
    const server = connect(target.port, target.host);
    const passage: Passage = { client, server };
    server.on("error", () => undefined);
    for (const socket of [client, server]) {
      socket.setNoDelay(true);
      socket.on("close", () => {
        end(passage);
        if (passages.delete(passage)) onChange();
      });
    }
    client.pipe(server);
    let bytesLeft = cutAfterBytes;
    cutAfterBytes = null;
    if (bytesLeft === null) server.pipe(client);
    else {
      let inHandshake = true;
      server.on("data", (chunk: Buffer) => {
        const handshake = inHandshake ? chunk.indexOf(handshakeEnd) : -1;
        const start = inHandshake ? (handshake === -1 ? chunk.length : handshake + handshakeEnd.length) : 0;
        if (handshake !== -1) inHandshake = false;
        const passed = chunk.subarray(0, start + (bytesLeft ?? 0));
        bytesLeft = (bytesLeft ?? 0) - (passed.length - start);
        client.write(passed);
        if (bytesLeft > 0) return;
        // In its own turn, so that the bytes before the cut reach the client first.
        client.end(() => cutPassage(passage));
        server.removeAllListeners("data").pause();
      });
    }
    server.on("connect", () => {
      passages.add(passage);
      onChange();
    });
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;

  return {
    address: `127.0.0.1:${port}`,
    get cuts() {
      return cuts;
    },
    get connected() {
      return passages.size > 0;
    },
    cut() {
      const [passage] = passages;
      if (passage === undefined) return false;
      cutPassage(passage);
      return true;
    },
    dark() {
      isDark = true;
    },
    light(options) {
      isDark = false;
      ({ cutAfterBytes } = options);
    },
    async close() {
      for (const passage of passages) end(passage);
      listener.close();
      await once(listener, "close");
    },
  };
}
