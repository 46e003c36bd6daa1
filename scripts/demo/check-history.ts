import { groupBy } from "./group-by.ts";

/** What a stored commit and its copy in the read model have in common. */
export interface HistoryCommit {
  readonly sequence: number;
  readonly commitId: string;
  readonly workflowId: string;
  readonly type: string;
  readonly at: number;
  /** The JSON text as stored. */
  readonly body: string;
}

/** The history in the read model is the log, commit by commit and byte by byte. One sentence for each difference. */
export function checkHistory(log: readonly HistoryCommit[], history: readonly HistoryCommit[]): string[] {
  const problems: string[] = [];
  const copies = groupBy(history, ({ sequence }) => sequence);
  for (const commit of log) {
    const [copy, ...more] = copies.get(commit.sequence) ?? [];
    copies.delete(commit.sequence);
    const name = `commit ${commit.commitId} of ${commit.workflowId} at sequence ${commit.sequence}`;
    if (copy === undefined) problems.push(`The history in SQLite lacks ${name}.`);
    else if (!sameCommit(commit, copy))
      problems.push(`The history in SQLite has ${name} with another content.`);
    if (more.length > 0) problems.push(`The history in SQLite has ${name} ${more.length + 1} times.`);
  }
  for (const sequence of copies.keys())
    problems.push(`The history in SQLite has sequence ${sequence}; the log does not.`);
  const misplaced = history.findIndex(
    ({ sequence }, place) => sequence < (history[place - 1]?.sequence ?? 0),
  );
  if (misplaced !== -1)
    problems.push(`The history in SQLite is out of order at sequence ${history[misplaced]?.sequence}.`);
  return problems;
}

function sameCommit(a: HistoryCommit, b: HistoryCommit): boolean {
  return (
    a.commitId === b.commitId &&
    a.workflowId === b.workflowId &&
    a.type === b.type &&
    a.at === b.at &&
    a.body === b.body
  );
}
