import type { ChangeSignal } from "./change-signal.ts";
import { startsAllowed, type FaultPlan, type PlannedFault } from "./plan-faults.ts";

/**
 * Keeps work and faults together: each fault begins at its point of progress, and the work does not run further ahead
 * than a window before the fault has been dealt with. So a fast machine meets every fault in mid-run, too.
 */
export class WorkGate {
  readonly #plan: FaultPlan;
  readonly #change: ChangeSignal;
  #started = 0;
  #completed = 0;
  #dealtWith = 0;

  constructor(plan: FaultPlan, change: ChangeSignal) {
    this.#plan = plan;
    this.#change = change;
  }

  get completed(): number {
    return this.#completed;
  }

  /** The fault that is under way or comes next; undefined when all were dealt with. */
  get nextFault(): PlannedFault | undefined {
    return this.#plan.faults[this.#dealtWith];
  }

  /** Does the runs, as many at once as the plan's window; rejects with the first that fails. */
  async work(runs: readonly (() => Promise<void>)[], signal: AbortSignal): Promise<void> {
    const mayGoOn = (): boolean =>
      this.#started === runs.length || this.#started < startsAllowed(this.#plan, this.nextFault);
    const lane = async (): Promise<void> => {
      for (;;) {
        // Asked again after each wait: of all lanes that wake up together only some may go on.
        while (!mayGoOn()) await this.#change.until(mayGoOn, signal);
        const run = runs[this.#started];
        if (run === undefined) return;
        this.#started += 1;
        await run();
        this.#completed += 1;
        this.#change.changed();
      }
    };
    await Promise.all(Array.from({ length: this.#plan.windowRuns }, lane));
  }

  /**
   * Deals with each fault when its point is reached, and the work has moved on since the one before: runs pile up at
   * the gate while a fault takes its time, and the next one should not meet them all at their start.
   */
  async disturb(dealWith: (planned: PlannedFault) => Promise<void>, signal: AbortSignal): Promise<void> {
    let previous = { atRuns: 0, completed: 0 };
    for (const planned of this.#plan.faults) {
      const movedOn = previous.completed + Math.ceil((planned.atRuns - previous.atRuns) / 2);
      await this.#change.until(() => this.#completed >= Math.max(planned.atRuns, movedOn), signal);
      await dealWith(planned);
      previous = { atRuns: planned.atRuns, completed: this.#completed };
      this.#dealtWith += 1;
      this.#change.changed();
    }
  }
}
