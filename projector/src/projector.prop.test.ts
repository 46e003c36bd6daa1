import {
  attributesAfter,
  attributeText,
  evolveCommit,
  evolveSchedule,
  initialRunState,
  matchesAttributes,
  noAttributes,
  toRow,
  toScheduleRow,
  type AttributeFilter,
  type Attributes,
  type AttributesAround,
  type RunState,
  type ScheduleState,
} from "@millrace/schemas";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { sampleHistory, scheduleId, type SampleCommit } from "./fixture/sample-history.ts";
import { createSampleLog, type SampleLog } from "./fixture/sample-log.ts";
import { projectAll, temporaryProjection } from "./fixture/temporary-projection.ts";
import { openProjection } from "./open-projection.ts";
import { rebuildProjection } from "./rebuild.ts";
import { hashProjection } from "./sqlite/hash-projection.ts";

// fast-check prints seed and counterexample with a failure; the limit lets it do so before the test's own time is up.
const runs = { numRuns: 25, interruptAfterTimeLimit: 12_000 };

async function sampleLog(history: readonly SampleCommit[]): Promise<SampleLog> {
  const sample = createSampleLog();
  await sample.fill(history);
  return sample;
}

/** What each run is, folded from the log itself. */
async function statesOf({ log }: SampleLog, history: readonly SampleCommit[]): Promise<RunState[]> {
  const states: RunState[] = [];
  for (const id of new Set(history.map(({ workflowId }) => workflowId))) {
    const commits = await log.load(id);
    const state = initialRunState(id, commits[0]?.type ?? "");
    for (const commit of commits) evolveCommit(state, commit);
    states.push(state);
  }
  return states;
}

async function scheduleOf({ log }: SampleLog): Promise<ScheduleState | null> {
  let state: ScheduleState | null = null;
  for (const commit of await log.load(scheduleId)) state = evolveSchedule(state, commit);
  return state;
}

test("the tables give back the folded state, whole and in order", async () => {
  await fc.assert(
    fc.asyncProperty(sampleHistory, fc.integer({ min: 1, max: 9 }), async (history, batchMax) => {
      const sample = await sampleLog(history);
      const path = temporaryProjection();
      await projectAll({ log: sample.log, path, batchMax });
      const projection = openProjection({ path });
      try {
        for (const state of await statesOf(sample, history)) {
          const expected = state.startedSequence === 0 ? null : state;
          expect(projection.state(state.id)).toEqual(expected);
          // Order of keys included: it is what a client sees.
          expect(JSON.stringify(projection.workflow(state.id))).toBe(
            JSON.stringify(expected === null ? null : toRow(expected)),
          );
        }
        const schedule = await scheduleOf(sample);
        const shown = schedule === null || schedule.status === "deleted" ? null : toScheduleRow(schedule);
        expect(projection.schedule(scheduleId).row).toEqual(shown);
        expect(projection.schedules({}).items).toEqual(shown === null ? [] : [shown]);
        expect(projection.events(scheduleId, {}).items.map(({ type }) => type)).toEqual(
          history.filter(({ workflowId }) => workflowId === scheduleId).map(({ events }) => events[0]?.type),
        );
      } finally {
        projection.close();
      }
    }),
    runs,
  );
});

test("I1: any split into batches and any restart gives the same rows as a rebuild from zero", async () => {
  await fc.assert(
    fc.asyncProperty(
      sampleHistory,
      fc.array(fc.tuple(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 1, max: 7 })), { maxLength: 5 }),
      async (history, restarts) => {
        const sample = createSampleLog();
        const path = temporaryProjection();
        let filled = 0;
        for (const [commits, batchMax] of [...restarts, [history.length, 3] as const]) {
          await sample.fill(history.slice(filled, filled + commits));
          filled += commits;
          await projectAll({ log: sample.log, path, batchMax });
        }
        const rebuilt = await rebuildProjection({ log: sample.log, path: temporaryProjection() });
        expect(hashProjection(path)).toEqual(rebuilt);
        expect(rebuilt.tables.commits.rows).toBe(history.length);
      },
    ),
    runs,
  );
});

test("projecting twice equals once: an old file at the log's end stays as it is", async () => {
  await fc.assert(
    fc.asyncProperty(sampleHistory, async (history) => {
      const { log } = await sampleLog(history);
      const path = temporaryProjection();
      await projectAll({ log, path });
      const once = hashProjection(path);
      await projectAll({ log, path });
      expect(hashProjection(path)).toEqual(once);
      expect(once.sequence).toBe(history.length);
    }),
    runs,
  );
});

const texts = (attributes: Attributes): Attributes =>
  Object.fromEntries(Object.entries(attributes).map(([key, value]) => [key, attributeText(value)]));

test("A2: a filter on attributes gives every commit that it matches before or after, whatever pages and restarts", async () => {
  const wanted: fc.Arbitrary<AttributeFilter> = fc
    .dictionary(
      fc.constantFrom("customer", "region"),
      fc.constantFrom<AttributeFilter[string]>(7, ["8", "eu"], true),
    )
    .filter((attr) => Object.keys(attr).length > 0);
  await fc.assert(
    fc.asyncProperty(
      sampleHistory,
      wanted,
      fc.boolean(),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 5 }),
      async (history, attr, byType, batchMax, maxCommits) => {
        const sample = await sampleLog(history);
        const path = temporaryProjection();
        await projectAll({ log: sample.log, path, batchMax });
        const projection = openProjection({ path });
        try {
          const current = new Map<string, Attributes>();
          const expected: (AttributesAround & { readonly sequence: number })[] = [];
          for (const [n, { workflowId, type, events }] of history.entries()) {
            const before = current.get(workflowId) ?? noAttributes;
            const after = attributesAfter(before, events);
            current.set(workflowId, after);
            expect(projection.attributesAt(workflowId, n + 1)).toEqual(texts(after));
            if (byType && type !== "type-a" && type !== "type-b") continue;
            if (matchesAttributes(attr, { before, after }))
              expected.push({ sequence: n + 1, before: texts(before), after: texts(after) });
          }
          const filter = { attr, ...(byType ? { type: ["type-a", "type-b"] } : {}) };
          const got: (AttributesAround & { readonly sequence: number })[] = [];
          for (let after = 0; after < history.length;) {
            const { commits, upTo } = projection.commits(filter, after, maxCommits, 1_000);
            for (const { sequence, attributes } of commits)
              got.push({ sequence, before: attributes?.before ?? {}, after: attributes?.after ?? {} });
            expect(upTo).toBeGreaterThan(after);
            after = upTo;
          }
          expect(got).toEqual(expected);
        } finally {
          projection.close();
        }
      },
    ),
    runs,
  );
});
