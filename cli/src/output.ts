/** Data goes to standard output, talk to standard error. */
export interface Output {
  /** One JSON value or NDJSON on standard output instead of text for people. */
  readonly json: boolean;
  /** One line of text for people; nothing with `json`. */
  readonly text: (line: string) => void;
  /** One JSON value on a line of its own; nothing without `json`. */
  readonly value: (value: unknown) => void;
  /** To standard error, in both modes. */
  readonly talk: (line: string) => void;
}

export function createOutput(json: boolean): Output {
  return {
    json,
    text(line) {
      if (!json) process.stdout.write(`${line}\n`);
    },
    value(value) {
      if (json) process.stdout.write(`${JSON.stringify(value)}\n`);
    },
    talk(line) {
      process.stderr.write(`millrace: ${line}\n`);
    },
  };
}
