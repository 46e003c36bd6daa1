const dataCharsMax = 300;

/** One event on one line for people; `--json` has all of it. */
export function eventLine(position: string, at: string, type: string, data: unknown): string {
  const text = JSON.stringify(data) ?? "";
  const shown =
    text.length > dataCharsMax ? `${text.slice(0, dataCharsMax)}… (${text.length} characters)` : text;
  return `${position.padStart(8)}  ${at}  ${type.padEnd(24)}  ${shown}`;
}
