import { fnv1a } from "@millrace/schemas";

/** The group of workers that name none: those that host the same set of types, in whatever versions. */
export function defaultGroup(types: Iterable<string>): string {
  const sorted = [...new Set(types)].toSorted();
  return `types-${fnv1a(sorted.join(",")).toString(16).padStart(8, "0")}`;
}
