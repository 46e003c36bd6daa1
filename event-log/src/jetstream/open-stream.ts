import {
  DiscardPolicy,
  JetStreamApiCodes,
  JetStreamApiError,
  RetentionPolicy,
  StorageType,
  type JetStreamManager,
  type StreamConfig,
  type StreamInfo,
} from "@nats-io/jetstream";
import { defaultShardCount, limits, logNames, MillraceError } from "@millrace/schemas";
import { toMillraceError } from "./broker-errors.ts";

const shardsKey = "millrace-shards";

export interface LogStream {
  readonly name: string;
  /** ISO 8601, the broker's nanoseconds. */
  readonly created: string;
  readonly shardCount: number;
}

/**
 * Finds the stream of a namespace, or makes it. Several processes may do this at once. `invalid_request` when a
 * stream of this name has settings under which commits could vanish.
 */
export async function openStream(
  manager: JetStreamManager,
  namespace: string,
  options: { readonly replicas: number; readonly bytesMax: number },
): Promise<LogStream> {
  const names = logNames(namespace);
  const attempt = `Opening the event log of namespace ${namespace}`;
  let info = await findStream(manager, names.stream, attempt);
  if (info === null) {
    const config: Partial<StreamConfig> & { name: string } = {
      name: names.stream,
      subjects: [names.all],
      retention: RetentionPolicy.Limits,
      storage: StorageType.File,
      num_replicas: options.replicas,
      // A full log is an error for the writer, never the silent loss of the oldest commits.
      discard: DiscardPolicy.New,
      discard_new_per_subject: true,
      max_msgs_per_subject: limits.subjectCommits,
      max_bytes: options.bytesMax,
      max_age: 0,
      allow_direct: true,
      deny_delete: true,
      metadata: { [shardsKey]: String(defaultShardCount) },
    };
    try {
      info = await manager.streams.add(config);
    } catch (error) {
      // Somebody else made it just now, perhaps with another size or number of replicas: theirs stands.
      info = await findStream(manager, names.stream, attempt);
      if (info === null) throw toMillraceError(error, attempt);
    }
  }
  return { name: names.stream, created: createdOf(info), shardCount: check(info, names.all) };
}

async function findStream(
  manager: JetStreamManager,
  name: string,
  attempt: string,
): Promise<StreamInfo | null> {
  try {
    return await manager.streams.info(name);
  } catch (error) {
    if (error instanceof JetStreamApiError && error.code === JetStreamApiCodes.StreamNotFound) return null;
    throw toMillraceError(error, attempt);
  }
}

/** Creation time as text: the library's type says so, older brokers and the library's own code differ. */
export function createdOf(info: StreamInfo): string {
  return String(info.created);
}

function check(info: StreamInfo, subject: string): number {
  const { name, subjects, retention, discard, max_age: maxAge, metadata } = info.config;
  const shardCount = Number(metadata?.[shardsKey]);
  const wrong =
    retention !== RetentionPolicy.Limits
      ? `its retention is "${retention}", not "limits"`
      : discard !== DiscardPolicy.New
        ? `it discards "${discard}", not "new"`
        : maxAge !== 0
          ? "it has a max_age"
          : !subjects?.includes(subject)
            ? `it does not take ${subject}`
            : !Number.isSafeInteger(shardCount) || shardCount < 1
              ? `its metadata has no valid ${shardsKey}`
              : null;
  if (wrong === null) return shardCount;
  throw new MillraceError(
    "invalid_request",
    `The stream ${name} is no event log of Millrace: ${wrong}. Choose another namespace, or mend the stream.`,
    { details: { stream: name } },
  );
}
