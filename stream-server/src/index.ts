export {
  startStreamServer,
  streamServerDefaults,
  type StreamServer,
  type StreamServerOptions,
  type StreamServerSettings,
} from "./start-stream-server.ts";
export { loadUws } from "./uws/load-uws.ts";
export type { StreamServerLogger } from "./logger.ts";
