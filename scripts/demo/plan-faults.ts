/** What the demo does to the parts and to one client's connection while the work goes on. */
export type Fault =
  /** The connection ends while the client is live. */
  | { readonly kind: "cut" }
  /** The connection ends and stays down, until `relight`. */
  | { readonly kind: "darken" }
  /** It stays down until so many runs have completed since; then it may come back, and ends in the midst of catching up. */
  | { readonly kind: "relight"; readonly runs: number }
  | { readonly kind: "kill"; readonly part: "engine" | "stream-server" };

export interface PlannedFault {
  readonly fault: Fault;
  /** It begins when so many runs have completed. */
  readonly atRuns: number;
}

export interface FaultPlan {
  readonly faults: readonly PlannedFault[];
  /** Connections that are cut in all. */
  readonly cuts: number;
  /** Runs that may be under way at once, and that are left to do when the last fault begins. */
  readonly windowRuns: number;
}

const order = [
  "cut",
  "outage",
  "cut",
  "engine",
  "outage",
  "cut",
  "outage",
  "stream-server",
  "cut",
  "outage",
  "cut",
] as const;
/** Enough that work goes on while a part is away; more only adds waiting for a turn to each delivery. */
const windowRunsMax = 12;
const outageRunsMax = 8;

/** The fewest runs over which the plan can be spread: one between two faults, and a window at the end. */
export const runsMin = 2 * order.length;

/** Spreads the faults evenly over the runs: by progress, never by time, so that each hits a run in its middle. */
export function planFaults(totalRuns: number): FaultPlan {
  if (totalRuns < runsMin)
    throw new RangeError(`Faults need ${runsMin} runs to be spread over, there are ${totalRuns}.`);
  const windowRuns = Math.min(windowRunsMax, Math.floor(totalRuns / 6));
  const spacing = (totalRuns - windowRuns) / (order.length + 1);
  const outageRuns = Math.max(1, Math.min(outageRunsMax, Math.floor(spacing / 2)));
  const faults = order.flatMap((name, place): PlannedFault[] => {
    const atRuns = Math.floor((place + 1) * spacing);
    if (name === "cut") return [{ atRuns, fault: { kind: "cut" } }];
    if (name !== "outage") return [{ atRuns, fault: { kind: "kill", part: name } }];
    return [
      { atRuns, fault: { kind: "darken" } },
      { atRuns: atRuns + outageRuns, fault: { kind: "relight", runs: outageRuns } },
    ];
  });
  const cuts = faults.filter(({ fault }) => fault.kind !== "kill").length;
  return { faults, cuts, windowRuns };
}

/** How many runs may have been started while `next` has not been dealt with: the work must not run ahead of it. */
export function startsAllowed(plan: FaultPlan, next: PlannedFault | undefined): number {
  return next === undefined ? Number.POSITIVE_INFINITY : next.atRuns + plan.windowRuns;
}
