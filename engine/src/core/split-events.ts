import { limits, type WorkflowEvent } from "@millrace/schemas";

/** Room for the envelope and the headers. */
const bytesMax = limits.commitBytes - 20_000;

/** Events in pieces that each fit into one commit, in order. One event that is too large by itself is a piece. */
export function splitEvents(
  events: readonly WorkflowEvent[],
  eventsMax: number = limits.commitEvents,
): WorkflowEvent[][] {
  const pieces: WorkflowEvent[][] = [];
  let bytes = 0;
  for (const event of events) {
    const size = bytesOf(JSON.stringify(event));
    const piece = pieces.at(-1);
    if (piece === undefined || piece.length >= eventsMax || bytes + size > bytesMax) {
      pieces.push([event]);
      bytes = size;
      continue;
    }
    piece.push(event);
    bytes += size;
  }
  return pieces;
}

function bytesOf(text: string): number {
  return new TextEncoder().encode(text).byteLength + 1;
}
