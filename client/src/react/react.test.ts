// @vitest-environment happy-dom
import { createElement, StrictMode, useState, type ReactNode } from "react";
import { createRoot, hydrateRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, describe, expect, it, vi } from "vitest";
import { ScriptedRows, workflowRow } from "../testing/scripted-rows.ts";
import type { WorkflowRow } from "@millrace/schemas";
import { MillraceProvider, useWorkflow, useWorkflows } from "./index.ts";

const roots: Root[] = [];
afterEach(() => {
  for (const root of roots.splice(0)) root.unmount();
  vi.restoreAllMocks();
});

function Order({
  id,
  initialState = null,
}: {
  readonly id: string;
  readonly initialState?: WorkflowRow | null;
}) {
  const { state, status, loaded } = useWorkflow(id, { initialState });
  const text = state === null ? (loaded ? "none" : "loading") : `${state.id} ${state.currentStep}`;
  return createElement("p", null, `${text} ${status}`);
}

let renderings = 0;
function Orders() {
  renderings++;
  // A new object at each rendering.
  const { rows } = useWorkflows({ type: ["order"], attr: { customer: 7 } });
  return createElement(
    "ul",
    null,
    rows.map(({ id }) => createElement("li", { key: id }, id)),
  );
}

function within(client: ScriptedRows, ...children: readonly ReactNode[]) {
  return createElement(StrictMode, null, createElement(MillraceProvider, { client }, ...children));
}

function mount(page: ReactNode): { readonly root: Root; readonly text: () => string } {
  const place = document.createElement("div");
  const root = createRoot(place);
  roots.push(root);
  root.render(page);
  return { root, text: () => place.textContent };
}

describe("useWorkflow", () => {
  it("follows a run with one subscription, under StrictMode too and in several components", async () => {
    const client = new ScriptedRows();
    const order = () => createElement(Order, { id: "order-42" });
    const { text } = mount(within(client, order(), order()));
    await expect.poll(text).toBe("loading catching-uploading catching-up");
    expect(client.subscriptions).toHaveLength(1);
    expect(client.last.filter).toEqual({ workflow: ["order-42"] });
    client.last.snapshot([workflowRow("order-42")]);
    client.last.status("live");
    await expect.poll(text).toBe("order-42 1 liveorder-42 1 live");
    client.last.row(workflowRow("order-42", { currentStep: 3 }));
    client.last.status("offline");
    await expect.poll(text).toBe("order-42 3 offlineorder-42 3 offline");
    expect(client.subscriptions).toHaveLength(1);
  });

  it("follows another run when the id changes, without a trace of the one before", async () => {
    const client = new ScriptedRows();
    let choose: (id: string) => void = () => undefined;
    function Chosen() {
      const [id, setId] = useState("a");
      choose = setId;
      return createElement(Order, { id });
    }
    const { text } = mount(within(client, createElement(Chosen)));
    await expect.poll(() => client.subscriptions.length).toBe(1);
    client.last.snapshot([workflowRow("a")]);
    await expect.poll(text).toContain("a 1");
    choose("b");
    await expect.poll(() => client.subscriptions.length).toBe(2);
    expect(text()).toBe("loading catching-up");
    client.last.snapshot([]);
    await expect.poll(text).toBe("none catching-up");
  });

  it("is rendered on a server without a connection, and taken over from there", async () => {
    const complaints = vi.spyOn(console, "error");
    const client = new ScriptedRows();
    const page = within(
      client,
      createElement(Order, { id: "a", initialState: workflowRow("a", { currentStep: 2 }) }),
    );
    const html = renderToString(page);
    expect(html).toContain("a 2 catching-up");
    expect(client.subscriptions).toHaveLength(0);
    const place = document.createElement("div");
    place.innerHTML = html;
    roots.push(hydrateRoot(place, page));
    await expect.poll(() => client.subscriptions.length).toBe(1);
    expect(place.textContent).toBe("a 2 catching-up");
    client.last.snapshot([workflowRow("a", { currentStep: 3 })]);
    await expect.poll(() => place.textContent).toBe("a 3 catching-up");
    expect(complaints).not.toHaveBeenCalled();
  });

  it("makes no client for a page that is rendered on a server with an address", () => {
    const page = createElement(MillraceProvider, { url: "/v1/stream" }, createElement(Order, { id: "a" }));
    expect(renderToString(page)).toContain("loading");
  });

  it("closes what nobody shows any more", async () => {
    const client = new ScriptedRows();
    const { root } = mount(within(client, createElement(Order, { id: "gone" })));
    await expect.poll(() => client.open).toBe(1);
    root.unmount();
    await expect.poll(() => client.open, { timeout: 10_000 }).toBe(0);
  });

  it("follows nothing without an id, and says what is missing without a provider", async () => {
    const client = new ScriptedRows();
    function Nothing() {
      return createElement("p", null, useWorkflow(null).state === null ? "nothing" : "something");
    }
    const { text } = mount(within(client, createElement(Nothing)));
    await expect.poll(text).toBe("nothing");
    expect(client.subscriptions).toHaveLength(0);
    expect(() => renderToString(createElement(Nothing))).toThrow("<MillraceProvider>");
  });
});

describe("useWorkflows", () => {
  it("shows what matches, with a filter that is written in place", async () => {
    const client = new ScriptedRows();
    const { text } = mount(within(client, createElement(Orders)));
    await expect.poll(() => client.subscriptions.length).toBe(1);
    expect(client.last.filter).toEqual({ type: ["order"], attr: { customer: ["7"] } });
    const mine = { attributes: { customer: 7 } };
    client.last.snapshot([workflowRow("a", mine), workflowRow("b", mine)]);
    await expect.poll(text).toBe("ab");
    const before = renderings;
    for (let step = 1; step <= 200; step++) client.last.row(workflowRow("a", { ...mine, currentStep: step }));
    client.last.row(workflowRow("b", { attributes: { customer: 8 } }));
    await expect.poll(text).toBe("a");
    // StrictMode renders twice.
    expect(renderings - before).toBeLessThanOrEqual(4);
    expect(client.subscriptions).toHaveLength(1);
  });
});
