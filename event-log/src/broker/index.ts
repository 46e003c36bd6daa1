export type { Broker, BrokerOptions, BrokerStatus, Durability } from "./broker.ts";
export { startBroker } from "./start-broker.ts";
export type { DataFolderLock } from "./data-folder-lock.ts";
export { lockDataFolder } from "./data-folder-lock.ts";
export type { FindBrokerOptions, FoundBroker } from "./find-broker.ts";
export { findBroker } from "./find-broker.ts";
export { assertBrokerVersion, requiredBrokerVersion } from "./broker-version.ts";
export type { BrokerConnectionOptions } from "./connection-options.ts";
export { brokerAuthError, connectionOptionsFromEnvironment } from "./connection-options.ts";
