import { MillraceError } from "@millrace/schemas";
import type { us_listen_socket, us_socket, TemplatedApp } from "uWebSockets.js";

/** What we use of the native module. */
export interface Uws {
  App(): TemplatedApp & {
    // Left out of the package's declarations: with a host and listen options.
    listen(
      host: string,
      port: number,
      options: number,
      listening: (socket: us_listen_socket | false) => void,
    ): TemplatedApp;
  };
  us_listen_socket_close(socket: us_listen_socket): void;
  us_socket_local_port(socket: us_socket): number;
}

/** Fail when the port is taken, instead of sharing it with another process by SO_REUSEPORT. */
export const listenExclusively = 1;
/** Share the port with whoever of this user does the same: the kernel spreads new connections over them. */
export const listenShared = 0;

/**
 * Loads the native module, when it is first needed. `native_module_unsupported` where it has no binary that fits:
 * `load` is a parameter so that a test can fail it.
 */
export async function loadUws(load: () => Promise<unknown> = () => import("uWebSockets.js")): Promise<Uws> {
  try {
    const module = (await load()) as { readonly default?: Uws } & Uws;
    return module.default ?? module;
  } catch (cause) {
    throw new MillraceError(
      "native_module_unsupported",
      `The uWebSockets.js binary does not load here (${process.platform}-${process.arch}, Node ${process.versions.node}): ` +
        `${cause instanceof Error ? (cause.message.split("\n").at(-1) ?? "") : String(cause)}. It works on Linux with glibc ` +
        "(not musl): Node 20 needs glibc 2.27 or newer, Node 22, 24 and 25 need glibc 2.38 or newer; and on macOS and Windows. " +
        "Use Node 20 on an older glibc, or a Debian- or Ubuntu-based image instead of Alpine.",
      {
        cause,
        details: { platform: process.platform, arch: process.arch, node: process.versions.node },
      },
    );
  }
}
