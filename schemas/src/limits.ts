/** Every limit of Millrace in one place. A message about a limit names the limit and the actual size. */
export const limits = {
  /** Characters of a workflow id. It is a subject token in the event log. */
  workflowIdChars: 128,
  /** Characters of a workflow type. */
  workflowTypeChars: 64,
  /** Characters of a namespace. */
  namespaceChars: 32,
  /** Characters of a worker group. It is a token of a key in the broker. */
  workerGroupChars: 64,
  /** Characters of a step name. */
  stepNameChars: 128,
  /** Occurrences of one step name within a run. */
  stepOccurrences: 100_000,
  /** Characters of a task queue's name. */
  queueNameChars: 64,
  /** Characters of what a task worker calls itself; longer ones are cut. */
  workerNameChars: 128,
  /** Bytes of a heartbeat's details as JSON. */
  heartbeatBytes: 65_536,
  /** Tasks of one queue that may run at the same time, when a limit is set. One permit is stored for each. */
  queueConcurrency: 1_000,
  /** Tasks that one poll may take. */
  pollTasks: 100,
  /** Milliseconds that a poll may wait. */
  pollWaitMs: 60_000,
  /** Polls that wait at one server. */
  waitingPolls: 10_000,
  /** Bytes of an HTTP request body. */
  httpBodyBytes: 1_048_576,
  /** Arrays and objects within each other in a request body: far deeper ones overflow the stack when written again. */
  jsonDepth: 256,
  /** Bytes of one encoded commit: below the broker's `max_payload` (1 MiB) with room for headers. */
  commitBytes: 1_000_000,
  /** Bytes of JSON of one payload: an input, an output, a signal's payload. Larger ones belong into storage of your own. */
  payloadBytes: 16 * 1_048_576,
  /** Bytes of one stored blob: a payload with room for what a codec adds. */
  blobBytes: 64 * 1_048_576,
  /** Events in one commit. */
  commitEvents: 1_000,
  /** Commits of one run number; a warning stands in its history from 80 % on. */
  runCommits: 50_000,
  /** Commits under one workflow id, all run numbers together: the log's own cap, a guard against runaways. */
  subjectCommits: 1_000_000,
  /** Events of a run number from which on `ctx.continueAsNewSuggested` is true. */
  historyEventsSuggested: 10_000,
  /** Characters of an error message or a progress message as stored; longer ones are cut. */
  messageChars: 2_000,
  /** Characters of a stack trace as stored. */
  stackChars: 4_000,
  /** Search attributes of one run, and characters of a key or a value. */
  attributes: 32,
  attributeChars: 256,
  /** Schedules of one namespace that are not deleted. */
  schedules: 10_000,
  /** Commits after which a schedule pauses itself: below `subjectCommits`, so that operators can still change it. */
  scheduleCommits: 990_000,
  /** Characters of a schedule id: the ids of its runs are that and a time, and must fit `workflowIdChars`. */
  scheduleIdChars: 80,
  /** Shortest interval of a schedule, milliseconds. A cron expression's is a second too. */
  scheduleIntervalMsMin: 1_000,
  /** Ticks of one backfill, and backfills that wait. */
  scheduleBackfillTicks: 1_000,
  scheduleBackfills: 10,
  /** Runs that one decision of a schedule starts; more follow in the next. */
  scheduleRunsPerCommit: 100,
  /** Open runs that a schedule keeps an eye on (of more, under `allow`, the oldest are let go), and runs that wait. */
  scheduleOpenRuns: 100,
  scheduleWaitingRuns: 100,
  /** Runs that a schedule's row shows. */
  scheduleRecentRuns: 10,
  /** Missed ticks are counted up to here. */
  scheduleMissedCounted: 100,
  /** Subscriptions of one socket. */
  subscriptionsPerSocket: 64,
  /** Bytes of one frame from a client. */
  clientFrameBytes: 65_536,
  /** Entries that a subscription with a window may leave unacknowledged. */
  windowEntries: 100_000,
  /** Events of one batch of a live subscription, and milliseconds that they are held. */
  batchEvents: 1_000,
  batchMs: 1_000,
  /** Characters of a token. */
  tokenChars: 16_384,
  /** Values in one field of a filter. */
  filterValues: 100,
  /** Waits shown in the row of a run. */
  rowWaits: 100,
  /** Runs of one page of a bulk command, and how far a dry run counts. */
  bulkRuns: 500,
  bulkCounted: 10_000,
  /** Items of one page of a list or history. */
  pageItems: 1_000,
} as const;

/** Shards of a namespace: fixed when the log is created, kept in the stream's metadata. */
export const defaultShardCount = 64;
