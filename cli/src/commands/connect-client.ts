import { createClient, type Client } from "@millrace/client";
import { WebSocket } from "ws";

/** A client of the live stream of a stream server, for Node versions with and without a WebSocket of their own. */
export function connectClient(url: string): Client {
  return createClient({ url, WebSocket, client: "millrace-cli" });
}
