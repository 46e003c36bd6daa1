export type { Broker, BrokerOptions, Durability } from "./broker.ts";
