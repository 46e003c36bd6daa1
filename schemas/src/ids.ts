import { MillraceError } from "./errors.ts";
import { limits } from "./limits.ts";

const token = /^[A-Za-z0-9_-]+$/;

/** Throws `invalid_id` unless `value` is `[A-Za-z0-9_-]{1,chars}`: a token of a subject or key in the broker. */
export function assertToken(kind: string, value: unknown, chars: number): asserts value is string {
  if (typeof value === "string" && value.length <= chars && token.test(value)) return;
  const shown = typeof value === "string" ? JSON.stringify(value.slice(0, 160)) : String(value);
  throw new MillraceError(
    "invalid_id",
    `${kind} ${shown} is not valid: it must match [A-Za-z0-9_-]{1,${chars}}` +
      (typeof value === "string" && value.length > chars ? ` (it has ${value.length} characters)` : "") +
      ". Choose an id of these characters.",
    { details: { limit: chars, actual: typeof value === "string" ? value.length : null } },
  );
}

/** `[A-Za-z0-9_-]{1,128}`; else `invalid_id`. An id is a subject token: `*`, `>` and `.` would be taken literally. */
export function assertWorkflowId(value: unknown): asserts value is string {
  assertToken("Workflow id", value, limits.workflowIdChars);
}

/** The type under which schedules stand in the log: `mr.<ns>.<shard>._schedule.<scheduleId>`. */
export const scheduleType = "_schedule";

/** `[A-Za-z0-9_-]{1,64}`, not beginning with `_`, which is for Millrace's own; else `invalid_id`. */
export function assertWorkflowType(value: unknown): asserts value is string {
  assertToken("Workflow type", value, limits.workflowTypeChars);
  if (!value.startsWith("_")) return;
  throw new MillraceError(
    "invalid_id",
    `Workflow type ${JSON.stringify(value)} is not valid: types that begin with _ are reserved. Choose another first character.`,
  );
}

/** What may stand in the log as a type: a workflow type, or {@link scheduleType}. */
export function assertSubjectType(value: unknown): asserts value is string {
  if (value !== scheduleType) assertWorkflowType(value);
}

/**
 * `[A-Za-z0-9_-]{1,80}`; else `invalid_id`. Schedules and runs share one space of ids: neither can have the id of the
 * other.
 */
export function assertScheduleId(value: unknown): asserts value is string {
  assertToken("Schedule id", value, limits.scheduleIdChars);
}

/** `[A-Za-z0-9_-]{1,32}`; else `invalid_id`. */
export function assertNamespace(value: unknown): asserts value is string {
  assertToken("Namespace", value, limits.namespaceChars);
}

/** `[A-Za-z0-9_-]{1,64}`; else `invalid_id`. A task queue is a subject token. */
export function assertQueueName(value: unknown): asserts value is string {
  assertToken("Queue", value, limits.queueNameChars);
}

/** A step within a run: its name and which time that name is asked for, from 1. */
export interface StepRef {
  readonly name: string;
  readonly occurrence: number;
}

/** `charge` for the first occurrence, `charge#2` for the second. */
export function stepKey(name: string, occurrence: number): string {
  return occurrence === 1 ? name : `${name}#${occurrence}`;
}

// oxlint-disable-next-line no-control-regex -- control characters are what this looks for
const controlCharacter = /[\u0000-\u001f\u007f]/;

/** Reads `charge` or `charge#2`. `invalid_id` when the name is empty, too long, or has control characters or a stray `#`. */
export function parseStepRef(ref: string): StepRef {
  const hash = ref.indexOf("#");
  const name = hash === -1 ? ref : ref.slice(0, hash);
  const digits = hash === -1 ? "1" : ref.slice(hash + 1);
  const occurrence = /^[1-9][0-9]{0,5}$/.test(digits) ? Number(digits) : 0;
  const nameOk = name.length > 0 && name.length <= limits.stepNameChars && !controlCharacter.test(name);
  if (!nameOk || occurrence < 1 || occurrence > limits.stepOccurrences) {
    throw new MillraceError(
      "invalid_id",
      `Step ${JSON.stringify(ref.slice(0, 160))} is not valid: 1 to ${limits.stepNameChars} characters without control ` +
        `characters, then optionally #2 to #${limits.stepOccurrences} for a later occurrence. Rename the step.`,
      { details: { limit: limits.stepNameChars, actual: name.length } },
    );
  }
  return { name, occurrence };
}

/**
 * The shard of a run: FNV-1a (32 bit) of the id, modulo the shard count. Part of the stored format: never change it.
 * Source: Fowler, Noll, Vo, draft-eastlake-fnv.
 */
export function shardOf(workflowId: string, shardCount: number): number {
  return fnv1a(workflowId) % shardCount;
}

/** FNV-1a over UTF-16 code units, 32 bit unsigned. Ids are ASCII, so units are bytes. */
export function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    hash ^= text.charCodeAt(i);
    hash = Math.imul(hash, 0x01000193);
  }
  return hash >>> 0;
}

/** Key of a stored blob: `<workflowId>/<ULID>`. */
export function blobKey(workflowId: string, blobId: string): string {
  return `${workflowId}/${blobId}`;
}

const blobIdPattern = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/;

/** Run and id of a blob's key; `invalid_id` when it is none. */
export function parseBlobKey(key: string): { readonly workflowId: string; readonly blobId: string } {
  const [workflowId, blobId = "", ...rest] = key.split("/");
  if (!blobIdPattern.test(blobId) || rest.length > 0) {
    throw new MillraceError(
      "invalid_id",
      `${JSON.stringify(key.slice(0, 200))} is not the key of a stored payload, which is <workflowId>/<ULID>. Take it from the history.`,
    );
  }
  assertWorkflowId(workflowId);
  return { workflowId, blobId };
}
