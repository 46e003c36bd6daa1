import type { EventLogOptions } from "@millrace/event-log";
import { MillraceError } from "@millrace/schemas";
import type { ServerConfig } from "../config.ts";
import type { Output } from "../output.ts";
import { isAlive, readServerRecord } from "../server-record.ts";

export interface GcCommandOptions {
  readonly dryRun?: boolean;
  readonly olderThan?: string;
}

/**
 * Deletes stored payloads that no history refers to. Talks to the broker, not to a server: it may run for long. A line
 * per orphan, then the totals; with `--json` NDJSON of `{key, size, complete, storedAt}` and at the end the report.
 */
export async function gc(output: Output, config: ServerConfig, options: GcCommandOptions): Promise<void> {
  const olderThanMs = options.olderThan === undefined ? undefined : readMinutes(options.olderThan) * 60_000;
  const broker = await brokerOf(config);
  const { openEventLog } = await import("@millrace/event-log");
  const { collectGarbage } = await import("@millrace/engine");
  const log = await openEventLog({ ...broker, namespace: config.namespace, name: "millrace gc" });
  const dryRun = options.dryRun === true;
  try {
    const report = await collectGarbage(log, {
      dryRun,
      ...(olderThanMs === undefined ? {} : { olderThanMs }),
      onOrphan({ key, size, complete, storedAt }) {
        const at = new Date(storedAt).toISOString();
        output.value({ key, size, complete, storedAt: at });
        output.text(`${key}  ${size} bytes  ${at}${complete ? "" : "  half-stored"}`);
      },
    });
    output.value(report);
    const { blobs, referenced, young, orphans, orphanBytes, deleted } = report;
    output.text(
      `${blobs} stored payloads in namespace ${config.namespace}: ${referenced} in use, ${young} too young to judge, ` +
        `${orphans} orphans (${orphanBytes} bytes), ${dryRun ? "none deleted (dry run)" : `${deleted} deleted`}.`,
    );
  } finally {
    await log.close();
  }
}

async function brokerOf(config: ServerConfig): Promise<Pick<EventLogOptions, "servers" | "connection">> {
  const { connectionOptionsFromEnvironment } = await import("@millrace/event-log/broker");
  const external = connectionOptionsFromEnvironment(config.environment);
  if (external !== undefined) {
    const { servers, ...connection } = external;
    return { servers: servers ?? [], connection };
  }
  const record = await readServerRecord(config.dataDir);
  if (record !== null && isAlive(record.pid)) return { servers: record.natsUrl };
  throw new MillraceError(
    "unavailable",
    `gc does not know its broker: no server runs on ${config.dataDir}, and MILLRACE_NATS_URL is not set. ` +
      "Start one with millrace dev, or set that variable.",
    { details: { dataDir: config.dataDir } },
  );
}

function readMinutes(text: string): number {
  if (/^[0-9]{1,7}$/.test(text)) return Number(text);
  throw new MillraceError(
    "invalid_request",
    `--older-than ${JSON.stringify(text)} is not a number of minutes: expected 0 or more.`,
  );
}
