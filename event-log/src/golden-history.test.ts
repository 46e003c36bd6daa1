import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  decodeCommit,
  evolveCommit,
  initialRunState,
  toRow,
  validateEvent,
  type WorkflowRow,
} from "@millrace/schemas";

/** Here and not in `schemas/`, which has no Node types: it runs in browsers. Histories as older versions stored them. Never edited, only added to: what is stored must fold for ever. */
const folder = new URL("../../schemas/test-data/", import.meta.url);

interface GoldenHistory {
  readonly workflowId: string;
  readonly type: string;
  readonly commits: readonly { readonly sequence: number; readonly at: number; readonly body: string }[];
  readonly row: WorkflowRow;
}

const files = readdirSync(folder).filter((file) => file.startsWith("history-"));

test("there are golden histories", () => {
  expect(files.length).toBeGreaterThan(0);
});

test.each(files)("%s still folds to the row that was recorded with it", (file) => {
  const golden = JSON.parse(readFileSync(new URL(file, folder), "utf8")) as GoldenHistory;
  const state = initialRunState(golden.workflowId, golden.type);
  for (const { sequence, at, body } of golden.commits) {
    const events = decodeCommit(body, sequence);
    for (const event of events) validateEvent(event);
    evolveCommit(state, { sequence, at, events });
  }
  // A row may have more than it had when the history was recorded, and never less or another.
  expect(toRow(state)).toMatchObject(golden.row);
});
