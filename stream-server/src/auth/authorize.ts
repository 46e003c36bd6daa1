/**
 * Whether somebody may. Pure.
 *
 * Z1 Nothing is allowed that no single grant allows: two grants are never combined for one run.
 * Z2 What is not known (a run's type before it was looked up) is never taken for allowed.
 * Z3 A filter is allowed if every run that it can match is allowed; it is never narrowed behind its sender's back.
 */
import { MillraceError } from "@millrace/schemas";
import { matchesPattern, type Action, type Grant, type Principal } from "./principal.ts";

export interface Target {
  /** Absent: not about one run, so only a grant for all of them fits. */
  readonly workflowId?: string;
  /** Absent: not about one type, or not known. */
  readonly type?: string;
}

/** `needs-type`: allowed for some types of the run, which must be looked up first. */
export type Verdict = "allowed" | "refused" | "needs-type";

export function verdictOf(principal: Principal | null, action: Action, target: Target): Verdict {
  if (principal === null) return "allowed";
  const fitting = grantsFor(principal, action).filter(({ workflow }) => covers(workflow, target.workflowId));
  if (fitting.some(({ type }) => covers(type, target.type))) return "allowed";
  return fitting.length > 0 && target.workflowId !== undefined && target.type === undefined
    ? "needs-type"
    : "refused";
}

/** Throws `forbidden`, which names what is allowed; also when it depends on a type that is not given. */
export function assertMay(principal: Principal | null, action: Action, target: Target = {}): void {
  if (principal === null || verdictOf(principal, action, target) === "allowed") return;
  throw forbidden(principal, action, describe(target));
}

/** The part of a filter that says which runs: each list absent means all. */
export interface RunsFilter {
  readonly workflow?: readonly string[];
  readonly type?: readonly string[];
}

/** Throws `forbidden` when the filter can match a run that the action is not allowed on (Z3). */
export function assertMayFilter(principal: Principal | null, action: Action, filter: RunsFilter): void {
  if (principal === null) return;
  const grants = grantsFor(principal, action);
  for (const workflowId of filter.workflow ?? [undefined]) {
    const fitting = grants.filter(({ workflow }) => covers(workflow, workflowId));
    for (const type of filter.type ?? [undefined]) {
      if (fitting.some((grant) => covers(grant.type, type))) continue;
      const target = {
        ...(workflowId === undefined ? {} : { workflowId }),
        ...(type === undefined ? {} : { type }),
      };
      throw forbidden(principal, action, `a filter that matches ${describe(target)}`);
    }
  }
}

function grantsFor({ grants }: Principal, action: Action): readonly Grant[] {
  return grants.filter(({ may }) => may.includes(action));
}

function covers(patterns: readonly string[] | undefined, name: string | undefined): boolean {
  if (patterns === undefined) return true;
  // Not given is every name there is, which only `*` covers.
  if (name === undefined) return patterns.includes("*");
  return patterns.some((each) => matchesPattern(each, name));
}

function describe({ workflowId, type }: Target): string {
  const run = workflowId === undefined ? "all workflows" : `workflow ${workflowId}`;
  return type === undefined ? `${run} of any type` : `${run} of type ${type}`;
}

/** Of a message: more would fill a log. */
const grantsShown = 5;

function forbidden(principal: Principal, action: Action, what: string): MillraceError {
  const grants = grantsFor(principal, action);
  const shown = grants.slice(0, grantsShown).map(({ workflow, type }) => {
    const limits = [
      ...(workflow === undefined ? [] : [`workflow ${workflow.slice(0, grantsShown).join(", ")}`]),
      ...(type === undefined ? [] : [`type ${type.slice(0, grantsShown).join(", ")}`]),
    ];
    return limits.length === 0 ? "everything" : limits.join(" and ");
  });
  const allowed = shown.length === 0 ? "nothing" : shown.join("; or ");
  return new MillraceError(
    "forbidden",
    `${principal.subject} may not ${action} ${what}. Its token allows to ${action}: ${allowed}. ` +
      "Ask within that, or for a token with another grant.",
    { details: { action } },
  );
}
