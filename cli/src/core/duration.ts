import { MillraceError } from "@millrace/schemas";

const unitMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** Milliseconds of `500ms`, `30s`, `15m`, `2h` or `1d`; `invalid_request` names the option. */
export function readDurationMs(option: string, text: string): number {
  const [, count, unit] = /^(\d{1,12})(ms|s|m|h|d)$/.exec(text) ?? [];
  const factor = unit === undefined ? undefined : unitMs[unit];
  if (factor !== undefined) return Number(count) * factor;
  throw new MillraceError(
    "invalid_request",
    `${option} ${JSON.stringify(text.slice(0, 80))} is no duration, e.g. ${option} 15m. Units are ms, s, m, h and d.`,
  );
}
