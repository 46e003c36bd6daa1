import { collectDefaultMetrics, Registry } from "prom-client";

let registry: Registry | null = null;

/**
 * CPU, memory, descriptors, event loop lag and garbage collection of this process: one registry, however many servers
 * run in it, since each collector keeps timers and observers of its own.
 */
export function processRegistry(): Registry {
  if (registry === null) {
    registry = new Registry();
    collectDefaultMetrics({ register: registry });
  }
  return registry;
}
