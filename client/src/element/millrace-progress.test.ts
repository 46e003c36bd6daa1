// @vitest-environment happy-dom
import { MillraceError } from "@millrace/schemas";
import { afterEach, describe, expect, it } from "vitest";
import { ScriptedRows, workflowRow } from "../testing/scripted-rows.ts";
import { defineMillraceProgress, MillraceProgress, type MillraceProgressDetail } from "./index.ts";

afterEach(() => {
  document.body.replaceChildren();
});

function place(attributes: Readonly<Record<string, string>>, client = new ScriptedRows()) {
  const element = document.createElement("millrace-progress");
  if (!(element instanceof MillraceProgress)) throw new Error("The element is not defined.");
  element.client = client;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  const changes: MillraceProgressDetail[] = [];
  document.body.addEventListener("millrace-change", (event) => {
    if (event instanceof CustomEvent) changes.push(event.detail as MillraceProgressDetail);
  });
  document.body.append(element);
  const inside = (selector: string) => element.shadowRoot?.querySelector(selector) ?? null;
  const bar = (name: string) => inside("[role=progressbar]")?.getAttribute(name) ?? null;
  const heard = () => inside("[role=status]")?.textContent;
  const seen = () => inside("[part=text]")?.textContent;
  return { element, client, changes, bar, heard, seen };
}

describe("<millrace-progress>", () => {
  it("is a progress bar with a name and a value in words", async () => {
    const { client, bar, seen, heard, changes, element } = place({ workflow: "order-42" });
    expect(bar("aria-label")).toBe("order-42");
    expect(bar("aria-valuenow")).toBeNull();
    expect(seen()).toBe("loading");
    client.last.snapshot([workflowRow("order-42")]);
    client.last.status("live");
    await expect.poll(() => bar("aria-valuenow")).toBe("25");
    expect(bar("aria-valuetext")).toBe("1 of 4, packing");
    expect(heard()).toBe("running");
    client.last.row(workflowRow("order-42", { currentStep: 3, message: "sending" }));
    await expect.poll(() => bar("aria-valuenow")).toBe("75");
    expect(seen()).toBe("3 of 4, sending");
    // A step is not worth interrupting somebody who listens.
    expect(heard()).toBe("running");
    client.last.row(workflowRow("order-42", { currentStep: 4, status: "completed", message: "done" }));
    await expect.poll(heard).toBe("completed");
    expect(bar("aria-valuenow")).toBe("100");
    expect(element.getAttribute("run-status")).toBe("completed");
    expect(element.getAttribute("stream-status")).toBe("live");
    expect(changes.at(-1)).toMatchObject({ state: { status: "completed" }, status: "live", error: null });
  });

  it("tells of a lost connection, a failure, and a run that does not exist yet", async () => {
    const { client, bar, heard, seen } = place({ workflow: "late", label: "Your order" });
    expect(bar("aria-label")).toBe("Your order");
    client.last.snapshot([]);
    client.last.status("live");
    await expect.poll(seen).toBe("not started");
    client.last.row(workflowRow("late", { totalSteps: 0, currentStep: 0, message: "" }));
    await expect.poll(heard).toBe("running");
    expect(bar("aria-valuenow")).toBeNull();
    client.last.status("offline");
    await expect.poll(heard).toBe("running, offline");
    client.last.status("live");
    const error = { name: "Error", message: "card refused" };
    client.last.row(workflowRow("late", { status: "failed", error }));
    await expect.poll(seen).toBe("failed, card refused");
    client.last.fail(new MillraceError("forbidden", "Not for you."));
    await expect.poll(heard).toBe("failed, offline");
  });

  it("follows another run when its attribute changes, and nothing when it is taken away", async () => {
    const { element, client } = place({ workflow: "a" });
    element.workflow = "b";
    expect(client.last.filter).toEqual({ workflow: ["b"] });
    await expect.poll(() => client.open, { timeout: 10_000 }).toBe(1);
    element.remove();
    await expect.poll(() => client.open, { timeout: 10_000 }).toBe(0);
    document.body.append(element);
    expect(client.open).toBe(1);
    element.workflow = null;
    expect(element.state).toBeNull();
    await expect.poll(() => client.open, { timeout: 10_000 }).toBe(0);
  });

  it("shares a subscription with an equal element, and can be defined under another name", () => {
    const client = new ScriptedRows();
    place({ workflow: "a" }, client);
    place({ workflow: "a" }, client);
    expect(client.subscriptions).toHaveLength(1);
    defineMillraceProgress("order-progress");
    defineMillraceProgress("order-progress");
    expect(document.createElement("order-progress")).toBeInstanceOf(MillraceProgress);
  });

  it("takes text for text: a message cannot bring markup", async () => {
    const { client, element } = place({ workflow: "a", label: "<b>" });
    client.last.snapshot([workflowRow("a", { message: "<img src=x onerror=alert(1)>" })]);
    await expect.poll(() => element.shadowRoot?.querySelector("[part=text]")?.textContent).toContain("<img");
    expect(element.shadowRoot?.querySelector("img")).toBeNull();
  });
});
