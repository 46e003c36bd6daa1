import type { WorkflowRow } from "@millrace/schemas";
import { createClient } from "../create-client.ts";
import {
  emptySnapshot,
  sharedWorkflowStore,
  type RowClient,
  type RowStatus,
  type WorkflowsSnapshot,
  type WorkflowStore,
} from "../workflow-store.ts";
import { progressView } from "./progress-view.ts";

/** What the event `millrace-change` says. */
export interface MillraceProgressDetail {
  /** The projected row; null while it is not known, and when there is no such run yet. */
  readonly state: WorkflowRow | null;
  readonly status: RowStatus;
  /** Milliseconds since `state` was last known to be up to date; 0 while live, null before that. */
  readonly lag: number | null;
  /** Why it was given up; null while it goes on. */
  readonly error: unknown;
}

/** On a server there is no such class: the module can be imported there, and the element is an unknown tag. */
const Base = typeof HTMLElement === "undefined" ? (Object as unknown as typeof HTMLElement) : HTMLElement;

/** One client, and so one socket, for all elements with the same address. */
const clients = new Map<string, RowClient>();

const style = `
:host { display: block; font: inherit; }
:host([hidden]) { display: none; }
[part="track"] { block-size: 0.5em; border-radius: 0.25em; overflow: hidden; background: rgb(128 128 128 / 25%); }
[part="bar"] { block-size: 100%; inline-size: 0; background: var(--millrace-color, currentColor); transition: inline-size 0.2s; }
:host([run-status="failed"]) [part="bar"], :host([run-status="terminated"]) [part="bar"] { background: var(--millrace-failed-color, #b3261e); }
:host([stream-status="offline"]) [part="bar"], :host([stream-status="stale"]) [part="bar"] { opacity: 0.5; }
[part="track"]:not([aria-valuenow]) [part="bar"] { inline-size: 30%; animation: millrace-wait 1.5s infinite alternate ease-in-out; }
[part="text"] { margin-block-start: 0.25em; }
.heard { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@keyframes millrace-wait { to { margin-inline-start: 70%; } }
@media (prefers-reduced-motion: reduce) { [part="bar"] { transition: none; animation: none !important; } }
@media (forced-colors: active) { [part="track"] { border: 1px solid CanvasText; } [part="bar"] { background: Highlight; } }
`;

const attributes = ["workflow", "url", "label"] as const;

/**
 * A progress bar for one run.
 *
 * Attributes: `workflow` (the run's id; without it nothing is followed), `url` (address of the stream server as for
 * `createClient`; default: where the page is from), `label` (its name for a screen reader; default: the id).
 * Set by the element: `run-status` and `stream-status`, to style by. Parts: `track`, `bar`, `text`. Custom
 * properties: `--millrace-color`, `--millrace-failed-color`.
 *
 * Dispatches `millrace-change` (bubbles) with a {@link MillraceProgressDetail} whenever it shows something else.
 *
 * Accessible: a `progressbar` with its value in words, and a live region that speaks when the status of the run or
 * of the connection changes. Heeds reduced motion and forced colours.
 *
 * @example
 * ```html
 * <script type="module">import "@millrace/client/element";</script>
 * <millrace-progress workflow="order-42" url="ws://127.0.0.1:8001"></millrace-progress>
 * ```
 */
export class MillraceProgress extends Base {
  static readonly observedAttributes: readonly string[] = attributes;
  #client: RowClient | null = null;
  #store: WorkflowStore | null = null;
  #leave: (() => void) | undefined;
  #shown: WorkflowsSnapshot | undefined;
  #parts: ReturnType<typeof build> | undefined;

  /** A client of yours instead of one for `url`: with a token, or shared across tabs. */
  get client(): RowClient | null {
    return this.#client;
  }

  set client(client: RowClient | null) {
    this.#client = client;
    this.#follow();
  }

  /** The run's id. */
  get workflow(): string | null {
    return this.getAttribute("workflow");
  }

  set workflow(id: string | null) {
    if (id === null) this.removeAttribute("workflow");
    else this.setAttribute("workflow", id);
  }

  /** The projected row that is shown. */
  get state(): WorkflowRow | null {
    return this.#store?.getSnapshot().rows[0] ?? null;
  }

  get status(): RowStatus {
    return (this.#store?.getSnapshot() ?? emptySnapshot).status;
  }

  connectedCallback(): void {
    this.#parts ??= build(this);
    this.#follow();
  }

  disconnectedCallback(): void {
    this.#leave?.();
    this.#leave = undefined;
    this.#store = null;
  }

  attributeChangedCallback(name: string, before: string | null, after: string | null): void {
    if (before === after) return;
    if (name === "label") this.#render();
    else this.#follow();
  }

  #follow(): void {
    this.#leave?.();
    this.#leave = undefined;
    this.#store = null;
    this.#shown = undefined;
    const id = this.workflow;
    if (!this.isConnected || this.#parts === undefined) return;
    if (id !== null && id !== "") {
      const store = sharedWorkflowStore(this.#client ?? clientFor(this.getAttribute("url")), {
        workflow: [id],
      });
      this.#store = store;
      this.#leave = store.subscribe(() => this.#render());
    }
    this.#render();
  }

  #render(): void {
    if (this.#parts === undefined) return;
    const snapshot = this.#store?.getSnapshot() ?? emptySnapshot;
    const { track, bar, text, heard } = this.#parts;
    const { rows, loaded, status, lag, error } = snapshot;
    const state = rows[0] ?? null;
    const view = progressView(state, loaded, status);
    track.setAttribute("aria-label", this.getAttribute("label") ?? this.workflow ?? "");
    track.setAttribute("aria-valuetext", view.text);
    if (view.fraction === null) {
      track.removeAttribute("aria-valuenow");
      track.removeAttribute("aria-valuemax");
      bar.style.removeProperty("inline-size");
    } else {
      const percent = Math.round(view.fraction * 100);
      track.setAttribute("aria-valuenow", String(percent));
      track.setAttribute("aria-valuemax", "100");
      bar.style.setProperty("inline-size", `${percent}%`);
    }
    if (text.textContent !== view.text) text.textContent = view.text;
    if (heard.textContent !== view.announcement) heard.textContent = view.announcement;
    setOrRemove(this, "run-status", state?.status ?? null);
    setOrRemove(this, "stream-status", this.#store === null ? null : status);
    if (this.#store === null || snapshot === this.#shown) return;
    this.#shown = snapshot;
    const detail: MillraceProgressDetail = { state, status, lag, error };
    this.dispatchEvent(new CustomEvent("millrace-change", { detail, bubbles: true, composed: true }));
  }
}

/** Defines the element under a name; nothing where that name is taken, or without custom elements (a server). */
export function defineMillraceProgress(name = "millrace-progress"): void {
  const registry = globalThis.customElements as CustomElementRegistry | undefined;
  if (registry === undefined || registry.get(name) !== undefined) return;
  // A class can be defined once: under a second name it is another one.
  registry.define(name, name === "millrace-progress" ? MillraceProgress : class extends MillraceProgress {});
}

function clientFor(url: string | null): RowClient {
  const address = new URL(url ?? "/v1/stream", document.baseURI).href;
  let client = clients.get(address);
  if (client === undefined) {
    client = createClient({ url: address });
    clients.set(address, client);
  }
  return client;
}

function build(host: HTMLElement) {
  const root = host.attachShadow({ mode: "open" });
  const sheet = document.createElement("style");
  sheet.textContent = style;
  const track = part("track");
  track.setAttribute("role", "progressbar");
  track.setAttribute("aria-valuemin", "0");
  const bar = part("bar");
  track.append(bar);
  const text = part("text");
  // The bar says the same in its value.
  text.setAttribute("aria-hidden", "true");
  const heard = document.createElement("div");
  heard.className = "heard";
  heard.setAttribute("role", "status");
  root.append(sheet, track, text, heard);
  return { track, bar, text, heard };
}

function part(name: string): HTMLElement {
  const element = document.createElement("div");
  element.setAttribute("part", name);
  return element;
}

function setOrRemove(element: HTMLElement, name: string, value: string | null): void {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}
