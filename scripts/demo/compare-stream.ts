/** One event as a reader of the log or of the read model's history knows it. */
export interface LoggedEvent {
  readonly sequence: number;
  /** Place within its commit, from 0. */
  readonly index: number;
  readonly type: string;
  readonly workflowId: string;
  /** ISO 8601. */
  readonly at: string;
  /** JSON text. */
  readonly data: string;
}

/** One event as a client received it: the stream leaves the index out, it follows from the order. */
export type ReceivedEvent = Omit<LoggedEvent, "index">;

export interface StreamComparison {
  readonly received: number;
  /** Events of the log that never came. */
  readonly lost: number;
  /** Events that came again. */
  readonly duplicates: number;
  /** Events that came for the first time after one that stands later in the log. */
  readonly outOfOrder: number;
  /** What came and is no event of the log, or is one with another content. */
  readonly unknown: number;
  /** The first few of all these, in words. */
  readonly examples: readonly string[];
}

const examplesMax = 5;

/** Compares what came, event by event, with what the log holds: sequence, index, type, workflow, time and data. */
export function compareStream(
  log: readonly LoggedEvent[],
  received: readonly ReceivedEvent[],
): StreamComparison {
  const places = new Map<string, number[]>();
  for (const [place, event] of log.entries()) {
    const same = places.get(identityOf(event));
    if (same === undefined) places.set(identityOf(event), [place]);
    else same.push(place);
  }
  const seen = new Set<number>();
  const examples: string[] = [];
  const found = { duplicates: 0, outOfOrder: 0, unknown: 0 };
  const note = (kind: keyof typeof found, event: ReceivedEvent): void => {
    found[kind] += 1;
    if (examples.length < examplesMax) examples.push(`${kind}: ${inWords(event)}`);
  };
  let furthest = -1;
  for (const event of received) {
    const same = places.get(identityOf(event));
    const place = same?.find((candidate) => !seen.has(candidate));
    if (same === undefined) note("unknown", event);
    else if (place === undefined) note("duplicates", event);
    else {
      seen.add(place);
      if (place < furthest) note("outOfOrder", event);
      furthest = Math.max(furthest, place);
    }
  }
  const lost = log.filter((_event, place) => !seen.has(place));
  for (const event of lost.slice(0, examplesMax)) examples.push(`lost: ${inWords(event)}`);
  return { received: received.length, lost: lost.length, ...found, examples };
}

function identityOf({ sequence, type, workflowId, at, data }: ReceivedEvent): string {
  return `${sequence}\n${type}\n${workflowId}\n${at}\n${data}`;
}

function inWords({ sequence, type, workflowId }: ReceivedEvent): string {
  return `${type} of ${workflowId} at sequence ${sequence}`;
}
