/** What a token lets its bearer do. Patterns match whole names; a trailing `*` matches any rest. */
import { MillraceError } from "@millrace/schemas";
import * as v from "valibot";

export const actions = ["read", "drive", "operate"] as const;
/** `read`: look and subscribe. `drive`: start, signal, update, do steps and tasks. `operate`: all that overrules a run. */
export type Action = (typeof actions)[number];

export interface Grant {
  readonly may: readonly Action[];
  /** Workflow ids; absent: all. */
  readonly workflow?: readonly string[];
  /** Workflow types; absent: all. */
  readonly type?: readonly string[];
}

/** Who asks. Where auth is off there is none, which is `null`, and everything is allowed. */
export interface Principal {
  readonly subject: string;
  /** In the namespace of this server; or-ed. None: nothing is allowed. */
  readonly grants: readonly Grant[];
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

/** A check of a filter looks at every grant for every value: both are bounded. */
const grantsMax = 64;
const patternsMax = 100;

const pattern = v.pipe(v.string(), v.regex(/^(?:[A-Za-z0-9_.-]{1,128}\*?|\*)$/));
const patterns = v.pipe(v.array(pattern), v.minLength(1), v.maxLength(patternsMax));
const GrantClaim = v.strictObject({
  namespace: pattern,
  may: v.pipe(v.array(v.picklist(actions)), v.minLength(1), v.maxLength(actions.length)),
  workflow: v.optional(patterns),
  type: v.optional(patterns),
});
const GrantsClaim = v.pipe(v.array(GrantClaim), v.maxLength(grantsMax));

/**
 * The grants of the claim `millrace`, a list, for one namespace. No claim is no grant. A claim that cannot be
 * understood is refused as a whole (`unauthenticated`): a limit with a typing error must not be taken for none.
 */
export function grantsOf(claim: unknown, namespace: string): readonly Grant[] {
  if (claim === undefined) return [];
  const parsed = v.safeParse(GrantsClaim, claim);
  if (!parsed.success) {
    const [issue] = parsed.issues;
    throw new MillraceError(
      "unauthenticated",
      `The token is refused at millrace.${v.getDotPath(issue) ?? ""}: ${issue.message}. The claim "millrace" is a list of ` +
        `up to ${grantsMax} grants {"namespace": "shop", "may": ["read"], "workflow": ["order-*"], "type": ["order"]}.`,
      { details: { reason: "claim" } },
    );
  }
  return parsed.output
    .filter((grant) => matchesPattern(grant.namespace, namespace))
    .map(({ may, workflow, type }) => ({
      may,
      ...(workflow === undefined ? {} : { workflow }),
      ...(type === undefined ? {} : { type }),
    }));
}

export function matchesPattern(wanted: string, name: string): boolean {
  return wanted.endsWith("*") ? name.startsWith(wanted.slice(0, -1)) : wanted === name;
}
