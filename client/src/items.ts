import {
  formatCursor,
  type Cursor,
  type EventData,
  type EventEntry,
  type EventType,
  type GoneReason,
  type StateEntry,
  type WorkflowRow,
} from "@millrace/schemas";

interface Positioned {
  /** Position of the commit in the event log. All events of one commit share it. */
  readonly sequence: number;
  readonly workflowId: string;
  /** When the log stored it: ISO 8601 with milliseconds, UTC. */
  readonly at: string;
  /**
   * Safe to store once this item was handled: resuming from it repeats nothing that was handled. Between the
   * events of one commit it still points before the commit, so a crash there brings the whole commit again.
   */
  readonly cursor: string;
}

/** One event, told apart by `type`. */
export type EventItem = {
  readonly [T in EventType]: Positioned & {
    readonly kind: "event";
    readonly type: T;
    readonly data: EventData<T>;
  };
}[EventType];

/** The projected row of a workflow, as of `sequence`. */
export interface StateItem extends Positioned {
  readonly kind: "state";
  readonly row: WorkflowRow;
}

/**
 * One page of a snapshot. `first` says: forget what you had, also when it comes again because the connection was
 * cut within the snapshot. `cursor` is `null` until the page that is `last`: half a snapshot cannot be resumed.
 */
export interface SnapshotItem {
  readonly kind: "snapshot";
  readonly rows: readonly WorkflowRow[];
  readonly first: boolean;
  readonly last: boolean;
  readonly cursor: string | null;
}

/** The cursor could not be resumed and `onGone` asked to begin again: events between are missing. */
export interface RestartItem {
  readonly kind: "restart";
  readonly why: GoneReason;
  readonly from: "start" | "snapshot";
  /** The cursor that was refused. */
  readonly lost: string;
  /** First and last sequence of the log as it is now. */
  readonly first: number;
  readonly head: number;
  readonly cursor: null;
}

export type StreamItem = EventItem | StateItem | SnapshotItem | RestartItem;

/** An item and the position that is safe to store after it was handled. */
export interface PlacedItem {
  readonly item: StreamItem;
  readonly position: Cursor | null;
}

/**
 * The items of a frame `(p, s]` that lie after `position`. The last item carries `s`; one whose commit goes on
 * carries the position before that commit.
 */
export function placeEntries(
  entries: readonly (EventEntry | StateEntry)[],
  position: Cursor,
  s: number,
): PlacedItem[] {
  const { epoch } = position;
  const placed: PlacedItem[] = [];
  let complete = position.sequence;
  for (const [index, entry] of entries.entries()) {
    const [sequence, type, workflowId, at, body] = entry;
    if (sequence <= position.sequence) continue;
    const next = entries[index + 1];
    if (next === undefined) complete = s;
    else if (next[0] !== sequence) complete = sequence;
    const common = { sequence, workflowId, at, cursor: formatCursor(epoch, complete) };
    const item =
      type === "state"
        ? // The fields that changed; `HeldRows` makes the row of them.
          { kind: "state", ...common, row: body }
        : { kind: "event", ...common, type, data: body };
    // The wire is trusted for the shape of `data`: a type newer than this client passes through as it is.
    placed.push({ item: item as StreamItem, position: { epoch, sequence: complete } });
  }
  return placed;
}
