export interface StreamFaults {
  readonly lost: number;
  readonly doubled: number;
  /** Received and not in the log. */
  readonly foreign: number;
  readonly outOfOrder: number;
  /** Where the two first differ, for the eye. */
  readonly first: string | null;
}

export const noFaults: StreamFaults = { lost: 0, doubled: 0, foreign: 0, outOfOrder: 0, first: null };

/** Compares what was received with what was to be received, line by line. */
export function compareStreams(expected: readonly string[], received: readonly string[]): StreamFaults {
  const length = Math.max(expected.length, received.length);
  let at = 0;
  while (at < length && expected[at] === received[at]) at++;
  if (at === length) return noFaults;
  const positions = new Map(expected.map((line, index) => [line, index]));
  const seen = new Set<string>();
  let [doubled, foreign, outOfOrder, highest] = [0, 0, 0, -1];
  for (const line of received) {
    const position = positions.get(line);
    if (position === undefined) foreign++;
    else if (seen.has(line)) doubled++;
    else if (position < highest) outOfOrder++;
    highest = Math.max(highest, position ?? -1);
    seen.add(line);
  }
  const lost = expected.filter((line) => !seen.has(line)).length;
  const first = `line ${at} of ${expected.length}: expected ${expected[at]}, received ${received[at]} (of ${received.length})`;
  return { lost, doubled, foreign, outOfOrder, first };
}
