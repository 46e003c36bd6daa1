/** Which attributes a run had when: what lists look up and what replay with a filter on attributes goes by. */
import type { Attributes, AttributesAround } from "@millrace/schemas";
import { buildQuery } from "./build-query.ts";
import type { PreparedQueries } from "./prepared-queries.ts";
import { stillHolds, type AttributesTable } from "./tables.ts";

export type HeldAttribute = Pick<AttributesTable, "key" | "text" | "number">;
export type AttributeSpan = Pick<AttributesTable, "key" | "text" | "since" | "until">;

/** What a run has as of the checkpoint. */
export const heldAttributes = buildQuery
  .selectFrom("attributes")
  .select(["key", "text", "number"])
  .where("run", "=", 0)
  .where("until", "=", stillHolds)
  .compile();

/** What a run had at a sequence or later, in order. */
export function attributeSpans(queries: PreparedQueries, run: number, from: number): AttributeSpan[] {
  return queries.all<AttributeSpan>(
    buildQuery
      .selectFrom("attributes")
      .select(["key", "text", "since", "until"])
      .where("run", "=", run)
      .where("until", ">=", from)
      .orderBy("key")
      .orderBy("since"),
  );
}

/** As texts, by which filters compare: before the commit at `sequence` and after it. */
export function attributesAround(spans: readonly AttributeSpan[], sequence: number): AttributesAround {
  const before = spans.filter(({ since, until }) => since < sequence && until >= sequence);
  const after = spans.filter(({ since, until }) => since <= sequence && until > sequence);
  return { before: toAttributes(before), after: toAttributes(after) };
}

function toAttributes(spans: readonly AttributeSpan[]): Attributes {
  return Object.fromEntries(spans.map(({ key, text }) => [key, text]));
}
