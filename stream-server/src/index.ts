export {
  startStreamServer,
  streamServerDefaults,
  type StreamServer,
  type StreamServerOptions,
  type StreamServerSettings,
} from "./start-stream-server.ts";
export type { StreamServerLogger } from "./logger.ts";
