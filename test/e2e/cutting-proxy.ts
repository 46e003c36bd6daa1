/** A TCP proxy that forwards to one address and can cut what goes through it, as a network does: without a word. */
import { connect, createServer, type Server, type Socket } from "node:net";

interface Link {
  readonly near: Socket;
  readonly far: Socket;
}

export class CuttingProxy {
  readonly port: number;
  cuts = 0;
  /** When a connection was asked for, those that were refused included; milliseconds of `performance.now()`. */
  readonly attempts: number[] = [];
  /** While it is down, connections are taken and cut at once. */
  down = false;
  readonly #server: Server;
  readonly #links: Set<Link>;

  private constructor(server: Server, port: number, links: Set<Link>) {
    this.#server = server;
    this.port = port;
    this.#links = links;
  }

  static async start(target: string): Promise<CuttingProxy> {
    const { hostname, port } = new URL(target);
    const links = new Set<Link>();
    const server = createServer({ noDelay: true });
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("The proxy has no port.");
    const proxy = new CuttingProxy(server, address.port, links);
    server.on("connection", (near) => {
      proxy.attempts.push(performance.now());
      near.on("error", ignore);
      if (proxy.down) {
        near.destroy();
        return;
      }
      const far = connect({ host: hostname, port: Number(port), noDelay: true });
      const link = { near, far };
      links.add(link);
      const end = (): void => {
        links.delete(link);
        near.destroy();
        far.destroy();
      };
      far.on("error", ignore);
      near.on("close", end);
      far.on("close", end);
      near.pipe(far).pipe(near);
    });
    return proxy;
  }

  get open(): number {
    return this.#links.size;
  }

  /** Cuts one open connection; which one is `choice`, in [0, 1). What is on its way is lost. */
  cutOne(choice: number): void {
    const link = [...this.#links][Math.floor(choice * this.#links.size)];
    if (link === undefined) return;
    this.#cut(link);
  }

  cutAll(): void {
    for (const link of this.#links) this.#cut(link);
  }

  async close(): Promise<void> {
    this.down = true;
    const closed = new Promise((resolve) => {
      this.#server.close(resolve);
    });
    for (const { near, far } of this.#links) {
      near.destroy();
      far.destroy();
    }
    await closed;
  }

  #cut(link: Link): void {
    this.cuts++;
    this.#links.delete(link);
    link.near.resetAndDestroy();
    link.far.resetAndDestroy();
  }
}

/** An error of a socket is followed by its close, which is what counts. */
function ignore(): void {
  return;
}
