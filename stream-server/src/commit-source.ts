import type { CommitPage } from "./core/commit-ring.ts";
import type { Subscription } from "./core/subscription.ts";
import type { Filter } from "@millrace/schemas";

/** A page of old history. `purged`: of a run that was asked for, commits behind the page's beginning were removed. */
export interface SourcePage extends CommitPage {
  readonly purged?: boolean;
}

interface Source {
  /** After a page that reached no further than it began: calls back in a later turn, to be asked again. */
  awaitMore(key: object, after: number, ready: () => void): void;
  /** Calls back when the states that this subscription needs can be had; false: they should be there already. */
  awaitStates(subscription: Subscription, ready: () => void, failed: (error: unknown) => void): boolean;
  stop(): void;
}

/** Read in the turn in which it is asked for. A page that reaches no further than `after`: there is nothing yet. */
export interface ImmediateSource extends Source {
  readonly name: "projection";
  read(filter: Filter, after: number): SourcePage;
}

/** Read by request and answer. */
export interface RequestSource extends Source {
  readonly name: "broker";
  read(filter: Filter, after: number): Promise<SourcePage>;
}

/** Where pages come from that the ring does not have: the projection, or the broker on a node without one. */
export type CommitSource = ImmediateSource | RequestSource;
