export { type Divergence } from "../check-replay.ts";
export {
  parseHistory,
  recordHistory,
  type RecordedEvent,
  type RecordedHistory,
} from "../recorded-history.ts";
export { replayHistories, replayHistory, type ReplayReport } from "./replay-history.ts";
export {
  createTestEnvironment,
  type TestEnvironment,
  type TestEnvironmentOptions,
} from "./test-environment.ts";
