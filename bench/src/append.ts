/** Appends of one-event commits to runs of their own, 256 at a time: our path against `js.publish`, in turn, same messages. */
import { connect, headers } from "nats";
import { jetstream } from "@nats-io/jetstream";
import { openEventLog } from "@millrace/event-log";
import {
  anyTypeSubject,
  commitHeaders,
  defaultShardCount,
  encodeCommit,
  runSubject,
  type WorkflowEvent,
} from "@millrace/schemas";
import { elapsedMs, median, round } from "./figures.ts";

export interface AppendFigures {
  readonly leanPerS: number;
  readonly jsPublishPerS: number;
  readonly leanCpuUs: number;
  readonly jsPublishCpuUs: number;
}

const count = 10_000;
const concurrency = 256;
const rounds = 3;

export async function benchAppend(natsUrl: string, namespace: string): Promise<AppendFigures> {
  const log = await openEventLog({ servers: natsUrl, namespace });
  const connection = await connect({ servers: natsUrl });
  const js = jetstream(connection);
  const events = (n: number): readonly WorkflowEvent[] => [
    {
      type: "WorkflowStarted",
      data: { version: "1", input: { order: n, note: "x".repeat(160) }, driver: "code" },
    },
  ];
  const lean: Measured[] = [];
  const published: Measured[] = [];
  try {
    for (let round_ = 0; round_ <= rounds; round_++) {
      const leanRun = await measure((n) =>
        log.append({
          commitId: commitIdOf(round_, n, "A"),
          workflowId: `lean-${round_}-${n}`,
          type: "bench",
          expected: "new",
          events: events(n),
          condition: "running",
        }),
      );
      const jsRun = await measure((n) => {
        const workflowId = `js-${round_}-${n}`;
        const head = headers();
        head.set(commitHeaders.commitId, commitIdOf(round_, n, "B"));
        head.set(commitHeaders.condition, "running");
        return js.publish(
          runSubject(namespace, defaultShardCount, "bench", workflowId),
          encodeCommit(workflowId, events(n)),
          {
            headers: head,
            expect: {
              lastSubjectSequence: 0,
              lastSubjectSequenceSubject: anyTypeSubject(namespace, defaultShardCount, workflowId),
            },
          },
        );
      });
      // The first round warms both paths up.
      if (round_ === 0) continue;
      lean.push(leanRun);
      published.push(jsRun);
    }
  } finally {
    await connection.close();
    await log.close();
  }
  return {
    leanPerS: round(median(lean.map((run) => run.perS))),
    jsPublishPerS: round(median(published.map((run) => run.perS))),
    leanCpuUs: round(median(lean.map((run) => run.cpuUs)), 1),
    jsPublishCpuUs: round(median(published.map((run) => run.cpuUs)), 1),
  };
}

interface Measured {
  readonly perS: number;
  readonly cpuUs: number;
}

async function measure(append: (n: number) => Promise<unknown>): Promise<Measured> {
  let next = 0;
  const cpu = process.cpuUsage();
  const begun = process.hrtime.bigint();
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (next < count) await append(next++);
    }),
  );
  const { user, system } = process.cpuUsage(cpu);
  return { perS: count / (elapsedMs(begun) / 1_000), cpuUs: (user + system) / count };
}

/** ULIDs made ahead would measure the generator too. */
function commitIdOf(round_: number, n: number, path: "A" | "B"): string {
  return `01J0000000${path}${round_}${String(n).padStart(14, "0")}`;
}
