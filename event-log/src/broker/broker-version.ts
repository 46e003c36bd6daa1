import { MillraceError } from "@millrace/schemas";

/**
 * The oldest nats-server that Millrace runs on: from 2.14 a follower's reads, batch publishes and per-key expiry
 * behave as the event log and the leases need them.
 */
export const requiredBrokerVersion = "2.14.0";

/** `[major, minor, patch]` of `2.15.1`, `v2.15.1`, `nats-server: v2.15.0-RC.2`; undefined when there is none. */
function versionNumbers(text: string): readonly [number, number, number] | undefined {
  const match = /(\d+)\.(\d+)\.(\d+)/.exec(text);
  return match === null ? undefined : [Number(match[1]), Number(match[2]), Number(match[3])];
}

/** The version in a text such as the output of `nats-server --version`, without prefix; undefined when there is none. */
export function brokerVersionIn(text: string): string | undefined {
  return /\d+\.\d+\.\d+(?:-[0-9A-Za-z.]+)?/.exec(text)?.[0];
}

/** True when `found` is {@link requiredBrokerVersion} or newer. Pre-releases count as their release. */
export function isBrokerVersionSupported(found: string): boolean {
  const numbers = versionNumbers(found);
  const required = versionNumbers(requiredBrokerVersion);
  if (numbers === undefined || required === undefined) return false;
  for (const index of [0, 1, 2] as const) {
    if (numbers[index] !== required[index]) return numbers[index] > required[index];
  }
  return true;
}

/**
 * Throws `broker_version_unsupported` (details `{found, required}`) when a broker is too old.
 * `where` tells people which one: a path, or the server's address.
 */
export function assertBrokerVersion(found: string, where: string): void {
  if (isBrokerVersionSupported(found)) return;
  throw new MillraceError(
    "broker_version_unsupported",
    `The broker at ${where} is nats-server ${found}; Millrace requires ${requiredBrokerVersion} or newer. ` +
      `Upgrade it, or unset what points to it so that Millrace finds or fetches one itself.`,
    { details: { found, required: requiredBrokerVersion, where } },
  );
}
