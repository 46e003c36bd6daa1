import { MillraceError } from "@millrace/schemas";

/** In the order in which they are started. */
export const partNames = ["engine", "projector", "stream-server"] as const;
export type PartName = (typeof partNames)[number];

/** The door closes first, then the work, then what follows the log. */
export const stopOrder: readonly PartName[] = ["stream-server", "engine", "projector"];

/** Reads `engine,projector`; in start order. `invalid_request` for an unknown name, none, or one given twice. */
export function parseParts(text: string): readonly PartName[] {
  const given = text
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
  const unknown = given.find((name) => !partNames.some((known) => known === name));
  const repeated = given.find((name, index) => given.indexOf(name) !== index);
  if (given.length === 0 || unknown !== undefined || repeated !== undefined) {
    const problem =
      unknown === undefined
        ? repeated === undefined
          ? "it names no part"
          : `it names ${repeated} twice`
        : `there is no part ${JSON.stringify(unknown)}`;
    throw new MillraceError(
      "invalid_request",
      `--parts ${JSON.stringify(text)} refused: ${problem}. Give some of ${partNames.join(", ")}, separated by commas.`,
    );
  }
  return partNames.filter((name) => given.includes(name));
}
