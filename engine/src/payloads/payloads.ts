/**
 * Payloads on their way into the log and out of it: a codec seals them, large ones are offloaded to the blob store.
 *
 * Owns: the stored form of a payload. Does not own: when that happens (`sealed-log.ts`, `run.ts`), what a payload is
 * (`payloadFields` in schemas).
 *
 * P1 What was sealed opens to the same JSON value, whatever it looks like: data that resembles a stored form is wrapped.
 * P2 With nothing to do, both ways give back the very object that they were given, synchronously.
 * P3 What cannot be opened here stays in its stored form and is known as such: it can be shown and appended again as it
 *    is, and `assertOpened` says why it may not reach code.
 * P4 A blob belongs to the run whose events refer to it: what moves to another run is stored again.
 *
 * Tested by `payloads.prop.test.ts` and `payloads.test.ts`.
 */
import type { BlobStore, StoredCommit } from "@millrace/event-log";
import {
  isMillraceError,
  isStoredForm,
  limits,
  MillraceError,
  parseBlobKey,
  parseStoredForm,
  payloadFields,
  type EventType,
  type StoredForm,
  type WorkflowEvent,
} from "@millrace/schemas";
import type { EncodedPayload, PayloadCodec } from "./codec.ts";

export interface PayloadOptions {
  /** Seals every payload. Default: none, payloads stand in the log as JSON. */
  readonly codec?: PayloadCodec;
  /** Bytes of one payload, as stored, from which on it is offloaded to the blob store. Default 131,072. */
  readonly offloadBytes?: number;
  /** Bytes of JSON of one payload; a larger one is `payload_too_large`. Default 16 MiB, at most 48 MiB. */
  readonly bytesMax?: number;
}

/** Beyond this, a commit with a few such payloads would not fit the broker's message. */
const offloadBytesDefault = 131_072;
const offloadBytesMax = 524_288;
/** Leaves room in a blob for what a codec adds. */
const bytesMaxMax = (limits.blobBytes / 4) * 3;

/** P3: stored forms that could not be opened, and why. By identity, so that data of the same look is not taken for one. */
const unopened = new WeakMap<object, MillraceError>();

type Inner = StoredForm["$millrace"];

/** Which codec made the bytes, if any, and with which of its keys. */
interface EncodedBy {
  readonly codec?: string | undefined;
  readonly key?: string | undefined;
}

export class Payloads {
  readonly bytesMax: number;
  readonly #blobs: BlobStore;
  readonly #codec: PayloadCodec | null;
  readonly #offloadBytes: number;

  /** Throws `invalid_request` for options that cannot be. */
  constructor(blobs: BlobStore, options: PayloadOptions = {}) {
    this.#blobs = blobs;
    this.#codec = options.codec ?? null;
    this.#offloadBytes = options.offloadBytes ?? offloadBytesDefault;
    this.bytesMax = options.bytesMax ?? limits.payloadBytes;
    assertWithin("offloadBytes", this.#offloadBytes, offloadBytesMax);
    assertWithin("bytesMax", this.bytesMax, bytesMaxMax);
    const { name } = this.#codec ?? {};
    if (name !== undefined && (name.length < 1 || name.length > 32)) {
      throw new MillraceError(
        "invalid_request",
        `Payload codec refused: its name ${JSON.stringify(name.slice(0, 64))} has ${name.length} characters, 1 to 32 are allowed.`,
      );
    }
  }

  /** The events as they are to be appended. P2: the given array when nothing of it changes. */
  seal(
    workflowId: string,
    events: readonly WorkflowEvent[],
  ): readonly WorkflowEvent[] | Promise<readonly WorkflowEvent[]> {
    return mapPayloads(events, (payload, where) => this.sealPayload(workflowId, payload, where));
  }

  /** The events as they were before `seal`; P3 for what cannot be opened. Rejects only with what is worth another try. */
  open(
    workflowId: string,
    events: readonly WorkflowEvent[],
  ): readonly WorkflowEvent[] | Promise<readonly WorkflowEvent[]> {
    return mapPayloads(events, (payload, where) => this.openPayload(workflowId, payload, where));
  }

  /** A commit with its events opened. One whose body cannot be read is given back: reading its events says so. */
  openCommit(commit: StoredCommit): StoredCommit | Promise<StoredCommit> {
    let events: readonly WorkflowEvent[];
    try {
      events = commit.events;
    } catch (error) {
      if (!isMillraceError(error)) throw error;
      return commit;
    }
    const opened = this.open(commit.workflowId, events);
    if (opened === events) return commit;
    if (opened instanceof Promise) return opened.then((each) => withEvents(commit, each));
    return withEvents(commit, opened);
  }

  async openCommits(commits: StoredCommit[]): Promise<StoredCommit[]> {
    for (const [index, commit] of commits.entries()) {
      const opened = this.openCommit(commit);
      if (opened === commit) continue;
      commits[index] = opened instanceof Promise ? await opened : opened;
    }
    return commits;
  }

  /** One payload of a run; `where` names it in errors. P2 holds. */
  sealPayload(workflowId: string, payload: unknown, where: string): unknown {
    if (payload === undefined || payload === null) return payload;
    if (typeof payload === "object" && unopened.has(payload)) return this.#sealAgain(workflowId, payload);
    if (this.#codec === null && !mayBeLarge(payload, this.#offloadBytes)) {
      return isStoredForm(payload) ? stored({ value: payload }) : payload;
    }
    return this.#seal(workflowId, payload, where, this.#codec);
  }

  async #seal(
    workflowId: string,
    payload: unknown,
    where: string,
    codec: PayloadCodec | null,
  ): Promise<unknown> {
    const json = Buffer.from(JSON.stringify(payload));
    if (json.byteLength > this.bytesMax) {
      throw new MillraceError(
        "payload_too_large",
        `${where} of run ${workflowId} has ${json.byteLength} bytes of JSON, the limit is ${this.bytesMax}. ` +
          "Store the data elsewhere and keep a reference.",
        { details: { limit: this.bytesMax, actual: json.byteLength } },
      );
    }
    if (codec === null) {
      if (json.byteLength > this.#offloadBytes) return this.#offload(workflowId, json, {});
      return isStoredForm(payload) ? stored({ value: payload }) : payload;
    }
    const encoded = await encode(codec, json);
    if (encoded.data.byteLength > this.#offloadBytes)
      return this.#offload(workflowId, encoded.data, encoded.by);
    return inline(encoded);
  }

  async #offload(workflowId: string, bytes: Uint8Array, by: EncodedBy): Promise<object> {
    const { key: blob, size, sha256 } = await this.#blobs.put(workflowId, bytes);
    const reference = { blob, size, sha256 };
    const { codec, key } = by;
    if (codec === undefined) return stored(reference);
    return stored({ ...reference, codec, ...(key === undefined ? {} : { key }) });
  }

  /** For a message to another process, which is not stored: sealed, never offloaded. */
  async sealMessage(payload: unknown): Promise<unknown> {
    if (this.#codec === null) return isStoredForm(payload) ? stored({ value: payload }) : payload;
    return inline(await encode(this.#codec, Buffer.from(JSON.stringify(payload ?? null))));
  }

  /**
   * For a message that stands beside the history that has the same payload: null when it is so large that it was
   * offloaded there. A second blob would be one that no history refers to. P3 holds.
   */
  async sealBeside(payload: unknown): Promise<{ readonly payload: unknown } | null> {
    if (typeof payload === "object" && payload !== null && unopened.has(payload)) return { payload };
    if (this.#codec !== null) {
      const encoded = await encode(this.#codec, Buffer.from(JSON.stringify(payload ?? null)));
      return encoded.data.byteLength > this.#offloadBytes ? null : { payload: inline(encoded) };
    }
    if (
      mayBeLarge(payload, this.#offloadBytes) &&
      Buffer.byteLength(JSON.stringify(payload)) > this.#offloadBytes
    )
      return null;
    return { payload: isStoredForm(payload) ? stored({ value: payload }) : payload };
  }

  /** `payload_sealed` or `payload_corrupt` when it cannot be opened here. `where` names it. */
  async openMessage(workflowId: string, payload: unknown, where: string): Promise<unknown> {
    const opened = await this.openPayload(workflowId, payload, where);
    if (opened === payload) assertOpenedPayload(payload);
    return opened;
  }

  /** P3, P4: without the key the bytes are not known, but they can be moved. */
  async #sealAgain(workflowId: string, payload: object): Promise<object> {
    const inner = innerOf(payload);
    if (!("blob" in inner) || parseBlobKey(inner.blob).workflowId === workflowId) return payload;
    const bytes = await this.#blobs.get(inner.blob, inner);
    return this.#offload(workflowId, bytes, "codec" in inner ? inner : {});
  }

  /** One payload as read from the log. P2 and P3 hold. */
  openPayload(workflowId: string, payload: unknown, where: string): unknown {
    if (!isStoredForm(payload)) return payload;
    const inner = parseStoredForm(payload);
    if (inner !== null && "value" in inner) return inner.value;
    return this.#open(payload).catch((error: unknown) => {
      if (isMillraceError(error) && error.retryable) throw error;
      const code = isMillraceError(error) ? error.code : "payload_corrupt";
      const reason = error instanceof Error ? error.message : String(error);
      const refusal = new MillraceError(code, `${where} of run ${workflowId} cannot be read: ${reason}`, {
        cause: error,
        ...(isMillraceError(error) ? { details: error.details } : {}),
      });
      unopened.set(payload, refusal);
      return payload;
    });
  }

  async #open(payload: object): Promise<unknown> {
    const inner = innerOf(payload);
    if ("value" in inner) return inner.value;
    // Before the bytes are fetched for nothing.
    if ("codec" in inner) this.#codecFor(inner.codec);
    const bytes =
      "blob" in inner
        ? await this.#blobs.get(inner.blob, inner)
        : Uint8Array.from(Buffer.from(inner.data, "base64"));
    return JSON.parse(
      Buffer.from(await this.decode(bytes, "codec" in inner ? inner : {})).toString("utf8"),
    ) as unknown;
  }

  /** Bytes as stored to the payload's JSON. `payload_sealed` when their codec is not here. */
  decode(data: Uint8Array, by: EncodedBy): Uint8Array | Promise<Uint8Array> {
    if (by.codec === undefined) return data;
    const encoded: EncodedPayload = by.key === undefined ? { data } : { data, key: by.key };
    return this.#codecFor(by.codec).decode(encoded);
  }

  #codecFor(name: string): PayloadCodec {
    if (this.#codec?.name === name) return this.#codec;
    const here = this.#codec === null ? "has none" : `has ${this.#codec.name}`;
    throw new MillraceError(
      "payload_sealed",
      `it is sealed with codec ${JSON.stringify(name)}, and this process ${here}. Give it that codec and its keys ` +
        "(connect's option payloads).",
      { details: { codec: name } },
    );
  }
}

/** P3: throws why a payload of the event could not be opened. Before it is given to code. */
export function assertOpened(event: WorkflowEvent): void {
  for (const field of payloadFields[event.type] ?? noFields)
    assertOpenedPayload((event.data as Record<string, unknown>)[field]);
}

export function assertOpenedPayload(payload: unknown): void {
  const why = typeof payload === "object" && payload !== null ? unopened.get(payload) : undefined;
  if (why !== undefined) throw why;
}

/** In place of a payload that is not to be had: `assertOpened` throws the reason. */
export function unopenedPayload(reason: MillraceError): object {
  const form = { $millrace: { missing: reason.message } };
  unopened.set(form, reason);
  return form;
}

const noFields: readonly string[] = [];

/**
 * Events of a history that was recorded outside of the log. `payload_sealed` for payloads whose data is not in it: sealed
 * or offloaded ones.
 */
export function openRecorded(workflowId: string, events: readonly WorkflowEvent[]): readonly WorkflowEvent[] {
  const opened = mapPayloads(events, (payload, where) => {
    const inner = isStoredForm(payload) ? parseStoredForm(payload) : null;
    if (inner === null) return payload;
    if ("value" in inner) return inner.value;
    throw new MillraceError(
      "payload_sealed",
      `The recorded history of ${workflowId} cannot be replayed: ${where} stands in it as it is stored, sealed or ` +
        "offloaded. Record it with recordHistory(await millrace.log.load(id)) from a connection that can read it.",
      { details: { workflowId, payload: where } },
    );
  });
  return opened as readonly WorkflowEvent[];
}

function mapPayloads(
  events: readonly WorkflowEvent[],
  change: (payload: unknown, where: string) => unknown,
): readonly WorkflowEvent[] | Promise<readonly WorkflowEvent[]> {
  let changed: WorkflowEvent[] | null = null;
  let waiting: Promise<void> | null = null;
  const put = (index: number, field: string, result: unknown): void => {
    changed ??= [...events];
    const event = changed[index];
    if (event !== undefined) changed[index] = withPayload(event.type, event.data, field, result);
  };
  for (const [index, event] of events.entries()) {
    const fields: readonly string[] | undefined = payloadFields[event.type];
    if (fields === undefined) continue;
    for (const field of fields) {
      const payload = (event.data as Record<string, unknown>)[field];
      const where = `${event.type}.${field}`;
      // One at a time: a commit's payloads must not be in memory twice all at once.
      if (waiting !== null) {
        waiting = waiting.then(async () => put(index, field, await change(payload, where)));
        continue;
      }
      const result = change(payload, where);
      if (result instanceof Promise) waiting = result.then((each) => put(index, field, each));
      else if (result !== payload) put(index, field, result);
    }
  }
  return waiting === null ? (changed ?? events) : waiting.then(() => changed ?? events);
}

function withPayload(type: EventType, data: object, field: string, payload: unknown): WorkflowEvent {
  return { type, data: { ...data, [field]: payload } } as WorkflowEvent;
}

interface Encoded {
  readonly data: Uint8Array;
  readonly by: { readonly codec: string; readonly key?: string };
}

async function encode(codec: PayloadCodec, json: Uint8Array): Promise<Encoded> {
  const { data, key } = await codec.encode(json);
  return { data, by: { codec: codec.name, ...(key === undefined ? {} : { key }) } };
}

function inline({ data, by }: Encoded): object {
  return stored({ ...by, data: Buffer.from(data).toString("base64") });
}

function stored($millrace: Inner): object {
  return { $millrace };
}

function innerOf(payload: object): Inner {
  const inner = parseStoredForm(payload);
  if (inner !== null) return inner;
  throw new MillraceError(
    "payload_corrupt",
    "its stored form is none that this version knows. Look for a foreign writer on the log, or upgrade this reader.",
  );
}

function withEvents(commit: StoredCommit, events: readonly WorkflowEvent[]): StoredCommit {
  const { sequence, workflowId, type, at, commitId, writer, condition, dueAt, parent, traceparent } = commit;
  return {
    ...{ sequence, workflowId, type, at, commitId, writer, condition, dueAt, parent, traceparent },
    events,
    get body() {
      return commit.body;
    },
  };
}

/**
 * Whether the JSON of a value may exceed `bytes`: a walk that stops as soon as it may, far cheaper than the text
 * itself. An escaped or non-Latin character has up to six bytes, hence the factor; the exact size is taken then.
 */
function mayBeLarge(value: unknown, bytes: number): boolean {
  let left = bytes / 3;
  const count = (each: unknown, depth: number): boolean => {
    if (typeof each === "string") left -= each.length + 3;
    else if (typeof each !== "object" || each === null) left -= 8;
    else if (depth > limits.jsonDepth) return true;
    else if (Array.isArray(each)) {
      for (const item of each) if (count(item, depth + 1)) return true;
      left -= 2;
    } else {
      for (const key in each) {
        left -= key.length + 4;
        if (count((each as Record<string, unknown>)[key], depth + 1)) return true;
      }
      left -= 2;
    }
    return left < 0;
  };
  return count(value, 0);
}

function assertWithin(option: string, value: number, max: number): void {
  if (Number.isSafeInteger(value) && value >= 1 && value <= max) return;
  throw new MillraceError(
    "invalid_request",
    `Payload option ${option} is ${value}; it must be a number of bytes from 1 to ${max}.`,
    { details: { limit: max, actual: value } },
  );
}
