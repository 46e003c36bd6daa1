/**
 * Faults to seed into the seam: each one a change of its source that somebody might make. Used by
 * `seam.sim.test.ts`: the simulation is worth what it catches.
 */

/** What is replaced by what, in `seam.ts` unless a file is named. The text stands there exactly once. */
type Change = readonly [find: string, replace: string, file?: string];
export type Mutant = readonly [name: string, ...changes: readonly Change[]];

/** Wrong for clients: events missed, repeated or late for ever, false alarms, wrong rows, windows overrun. */
export const brokenSeams: readonly Mutant[] = [
  [
    "no skip of what a page ran ahead",
    ["if (pos >= last) continue;", ""],
    ["entries.filter(({ commit }) => commit.sequence > pos)", "entries.slice()"],
  ],
  ["no chain of its own in mid-batch", ["pos < first ? entries", "pos < Infinity ? entries"]],
  [
    "live after a read",
    [
      "if (page.upTo > subscription.pos && !this.#sendPage(subscription, page)) return;\n    this.pump(subscription);",
      "if (page.upTo > subscription.pos && !this.#sendPage(subscription, page)) return;\n    this.#goLive(subscription);",
    ],
  ],
  ["a demotion that claims the head", ["n === frames.length - 1 ? upTo : frame.s", "this.head"]],
  ["frames that cannot be encoded are dropped", ['this.#demote(subscription, "tail", before);', "continue;"]],
  [
    "a state that cannot be had is dropped",
    ["if (entries === null) this.#demoteAll(topic, before);", "if (entries === null) continue;"],
  ],
  ["drop when slow", ["this.#demote(subscription, why, n === frames.length - 1 ? upTo : frame.s);", ""]],
  [
    "lastMatch begins beyond the head",
    ["topic.lastMatch = this.head;\n", "topic.lastMatch = this.head + 1;\n"],
  ],
  [
    "no bookmark at the promotion",
    ["if (subscription.lastS < subscription.pos) this.#bookmark", "if (false) this.#bookmark"],
  ],
  [
    "a commit that cannot be judged is taken for one that does not match",
    [
      "uncertain.has(topic) ? null : this.#port.entriesOf(topic, matching)",
      "uncertain.has(topic) ? [] : this.#port.entriesOf(topic, matching)",
    ],
    [
      "else if (topic.batch === null)",
      "else if (entries.length === 0) continue;\n      else if (topic.batch === null)",
    ],
  ],
  [
    "a commit that cannot be judged is taken for one that matches",
    ["if (!certain) uncertain.add(topic);", ""],
  ],
  ["a position that goes back at a demotion", ["Math.max(subscription.pos, sentUpTo)", "sentUpTo"]],
  [
    "a heartbeat that does not move the chain",
    ["subscription.lastS = Math.max(subscription.lastS, this.head);\n", ""],
  ],
  [
    "no end of a run that closed before",
    ["if (closed) {\n        this.#end", "if (false) {\n        this.#end"],
  ],
  ["no end of a run while live", ["for (const workflowId of closed) {", "for (const workflowId of []) {"]],
  [
    "a page that is read twice",
    ['subscription.mode !== "catchup" || subscription.reading', 'subscription.mode !== "catchup"'],
  ],
  // Windows.
  ["an acknowledgement that frees nothing", ["    subscription.window?.acknowledge(sequence);\n", ""]],
  ["an acknowledgement of what was never sent", ["if (sequence > subscription.pos) return false;", ""]],
  [
    "a window that is one too large",
    ["this.#unacknowledged >= this.size", "this.#unacknowledged > this.size", "send-window.ts"],
  ],
  [
    "a late acknowledgement that frees what is not handled",
    ["(frame[this.#at] ?? 0) > sequence", "(frame[0] ?? 0) > sequence", "send-window.ts"],
  ],
  [
    "live frames that no window counts",
    ["      window?.sent(frame.marks);\n      const why", "      const why"],
  ],
  [
    "pages that no window counts",
    ["      window?.sent(frame.marks);\n      subscription.lastS", "      subscription.lastS"],
  ],
  ["a live frame for which there is no room", ["left <= 0 && n < part.length - 1", "false"]],
  ["a page longer than the window", ["window?.room ?? Infinity", "Infinity"]],
  ["pages into a full window", ["if (subscription.window?.full === true) return;", ""]],
  ["a demotion by window that skips what had no room", ["upTo === last ? this.head : upTo", "this.head"]],
  // Batches.
  [
    "a batch that is dropped at a demotion",
    ["first === undefined ? this.head : first.commit.sequence - 1", "this.head"],
  ],
  [
    "a batch that is dropped when a state cannot be had",
    ["Math.min(before, this.#sentUpTo(topic))", "before"],
  ],
  ["a batch that is kept after it was sent", ["this.#held.take(topic), sentUpTo", "topic.held, sentUpTo"]],
  [
    "a batch of which each commit pushes out the one before",
    ["topic.held.length === 0 ? entries : topic.held.concat(entries)", "entries", "held-topics.ts"],
  ],
  [
    "a batch that waits for more only",
    [
      "      if (due <= now) topics.push(topic);\n      else next",
      "      if (due > now) next",
      "held-topics.ts",
    ],
  ],
  [
    "a batch that waits for the time only",
    ["return holding.count >= batch.max;", "return false;", "held-topics.ts"],
    ["due <= now", "due <= now + 1e9", "held-topics.ts"],
  ],
  [
    "only the first of several batches is woken",
    ["    if (next !== Infinity) this.#wake(next);\n", "", "held-topics.ts"],
  ],
  [
    "a heartbeat over what a batch holds",
    [" || subscription.topic.held.length > 0) continue;", ") continue;"],
  ],
  [
    "a bookmark over what a batch holds",
    [
      "const s = this.#sentUpTo(subscription.topic);\n    if (s - subscription.lastS",
      "const s = this.head;\n    if (s - subscription.lastS",
    ],
  ],
  [
    "an end before what a batch holds",
    ["if (subscription.topic.held.length > 0) this.#flush(subscription.topic);\n", ""],
  ],
  // Bookmarks.
  [
    "a passed-over stretch that is not remembered",
    [
      "    this.#bookmark(subscription, upTo);\n    subscription.lastS = upTo;\n",
      "    this.#bookmark(subscription, upTo);\n",
    ],
  ],
  [
    "a bookmark of a live subscription that is not remembered",
    ["    subscription.pos = subscription.lastS = s;\n  }\n\n  pumpAll", "  }\n\n  pumpAll"],
  ],
  // Rows.
  ["what changed, for who has no row", ["const began = snapshot ? 0 : pos;", "const began = 0;"]],
  ["what changed, although the filter skips commits", ["skipsCommits(filter) ? Infinity : began", "began"]],
  ["the rows of a snapshot are not counted", ["const began = snapshot ? 0 : pos;", "const began = pos;"]],
  [
    "the texts of those who have the rows, for all",
    [
      "if (began >= this.#baseMax) return this.#entries.length;",
      "if (began >= this.#baseMax) return 0;",
      "frame-variants.ts",
    ],
  ],
];

/** Right as long as nothing is lost on the way; then the client does not notice. */
export const blindSeams: readonly Mutant[] = [
  [
    "heartbeats without the last matching sequence",
    [
      "live.push([subscription.topic.f, subscription.topic.lastMatch])",
      "live.push([subscription.topic.f, 0])",
    ],
  ],
  ["frames that do not say what went before", ["    topic.lastMatch = last;\n", ""]],
  ["heartbeats that are silent about full windows", ["...(waiting.length === 0 ? {} : { w: waiting })", ""]],
];
