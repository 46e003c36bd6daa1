import type { Durability } from "@millrace/event-log/broker";
import type { PartName } from "./parts/part-name.ts";

export interface Ready {
  /** Address of the stream server; null when another process runs it. */
  readonly url: string | null;
  readonly natsUrl: string;
  readonly durability: Durability;
  readonly dataDir: string;
  readonly namespace: string;
  /** The projector's file. */
  readonly projection: string;
  /** Process of each part, and of the broker when it is ours. */
  readonly parts: Readonly<Partial<Record<PartName | "broker", number>>>;
  readonly pid: number;
  readonly examples: boolean;
}

const durabilityInWords: Readonly<Record<Durability, string>> = {
  default: "default (an answered write survives a killed process, not a power cut)",
  fsync: "fsync (an answered write is on disk)",
  external: "external (as the broker at that address is configured)",
};

/** The address of the live stream on a stream server. */
export function streamUrlOf(url: string): string {
  return `${url.replace(/^http/, "ws")}/v1/stream`;
}

/** What a program needs to go on, as one JSON value. */
export function readyValue(ready: Ready): Readonly<Record<string, unknown>> {
  const { url, natsUrl, pid, durability, dataDir, namespace, projection, parts } = ready;
  const streamUrl = url === null ? null : streamUrlOf(url);
  return { ready: true, url, streamUrl, natsUrl, pid, durability, dataDir, namespace, projection, parts };
}

/** The same for a person, on one line, with a command to try. */
export function readyLine(ready: Ready): string {
  const { url, natsUrl, durability, dataDir } = ready;
  const start = ready.examples
    ? { type: "hello", input: { name: "Ada" } }
    : { type: "tour", driver: "external", steps: ["first"] };
  return [
    "millrace is ready",
    ...(url === null ? [`parts ${Object.keys(ready.parts).join(", ")}`] : [url, streamUrlOf(url)]),
    natsUrl,
    `durability ${durabilityInWords[durability]}`,
    `data ${dataDir}`,
    ...(url === null ? [] : [`try: curl -d '${JSON.stringify(start)}' ${url}/v1/workflows`]),
  ].join(" | ");
}
