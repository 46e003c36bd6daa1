import * as v from "valibot";
import type { EventData, EventType } from "./events.ts";

/**
 * Which fields of which event are payloads, data of the user's own: what a codec seals and what is offloaded when it
 * is large. Everything else (names, attributes, error messages, progress) is for operators and stays readable.
 */
export const payloadFields: {
  readonly [T in EventType]?: readonly (keyof EventData<T> & ("input" | "output" | "payload"))[];
} = {
  WorkflowStarted: ["input"],
  WorkflowCompleted: ["output"],
  StepScheduled: ["input"],
  StepCompleted: ["output"],
  SignalReceived: ["payload"],
  UpdateAccepted: ["input"],
  UpdateCompleted: ["output"],
  ChildWorkflowStarted: ["input"],
  ChildWorkflowClosed: ["output"],
  CompensationCompleted: ["output"],
  ScheduleCreated: ["input"],
  ScheduleUpdated: ["input"],
};

const encoded = {
  /** Name of the codec, and which of its keys. */
  codec: v.string(),
  key: v.optional(v.string()),
};
const blob = {
  /** Key in the blob store, and what must be found there. */
  blob: v.string(),
  size: v.number(),
  sha256: v.string(),
};

const StoredFormSchema = v.object({
  $millrace: v.union([
    v.strictObject({ value: v.unknown() }),
    v.strictObject({ ...encoded, data: v.string() }),
    v.strictObject({ ...blob, ...encoded }),
    v.strictObject(blob),
  ]),
});

/**
 * What stands in the log in place of a payload that does not stand there as it is. `value`: a payload that looked like
 * one of these. `data`: what the codec made of its JSON, base64. `blob`: its JSON, or what the codec made of it, is in
 * the blob store.
 */
export type StoredForm = v.InferOutput<typeof StoredFormSchema>;

/** Whether a payload as read from the log must be opened; cheap enough for every payload. */
export function isStoredForm(payload: unknown): payload is object {
  return typeof payload === "object" && payload !== null && Object.hasOwn(payload, "$millrace");
}

/** The inner part of a stored form; null when it is none that this version knows. */
export function parseStoredForm(payload: unknown): StoredForm["$millrace"] | null {
  const result = v.safeParse(StoredFormSchema, payload);
  return result.success ? result.output.$millrace : null;
}
