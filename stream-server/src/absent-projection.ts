import type { Projection } from "@millrace/projector";
import { MillraceError } from "@millrace/schemas";

/** Stands where a node has no projection: what needs one is refused with the way to a node that has. */
export function absentProjection(): Projection {
  const missing = (what: string) => (): never => {
    throw projectionMissing(what);
  };
  return {
    checkpoint: () => ({ sequence: 0, commitId: "", streamCreated: "" }),
    workflow: missing("A run's row"),
    state: missing("A run's state"),
    stateAt: missing("A run's state"),
    attributesAt: missing("A run's attributes"),
    list: missing("A list of runs"),
    count: missing("A count of runs"),
    events: missing("A page of a run's history"),
    schedule: missing("A schedule's row"),
    schedules: missing("A list of schedules"),
    commits: missing("A page of the history"),
    snapshot: missing("A snapshot"),
    openSnapshot: missing("A snapshot"),
    quarantined: () => [],
    // Of a promise's kind: those who wait expect a rejection.
    waitFor: () => Promise.reject(projectionMissing("Waiting for the projector")),
    close: () => undefined,
  };
}

export function projectionMissing(what: string): MillraceError {
  return new MillraceError(
    "projection_missing",
    `${what} cannot be had from this node: it has no projection (--no-projection) and serves the live stream and commands. ` +
      "Ask a node with a projection. From here: subscriptions with shape events, and with any shape for workflows named by id.",
  );
}
