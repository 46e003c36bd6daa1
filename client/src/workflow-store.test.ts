import { MillraceError } from "@millrace/schemas";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ScriptedRows, workflowRow } from "./testing/scripted-rows.ts";
import { createWorkflowStore, sharedWorkflowStore } from "./workflow-store.ts";

describe("createWorkflowStore", () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("opens with the first listener, tells all that came together once, and keeps its snapshot between", () => {
    const client = new ScriptedRows();
    const store = createWorkflowStore(client, { type: ["order"] });
    expect(client.open).toBe(0);
    expect(store.getSnapshot()).toMatchObject({
      rows: [],
      loaded: false,
      status: "catching-up",
      lag: null,
      error: null,
    });
    let told = 0;
    store.subscribe(() => told++);
    expect(client.last.filter).toEqual({ type: ["order"] });
    client.last.snapshot([workflowRow("a")], { last: false });
    expect(store.getSnapshot()).toMatchObject({ rows: [], loaded: false });
    client.last.snapshot([workflowRow("b")], { first: false });
    client.last.status("live");
    for (let step = 1; step <= 100; step++) client.last.row(workflowRow("a", { currentStep: step }));
    // I2: never within a call of ours.
    expect(told).toBe(0);
    vi.advanceTimersByTime(0);
    expect(told).toBe(1);
    const snapshot = store.getSnapshot();
    expect(snapshot.rows.map(({ id, currentStep }) => [id, currentStep])).toEqual([
      ["a", 100],
      ["b", 1],
    ]);
    expect(snapshot).toMatchObject({ loaded: true, status: "live", lag: 0 });
    // I1
    expect(store.getSnapshot()).toBe(snapshot);
  });

  it("says how old the rows are while they are not live, in steps of a second", () => {
    const client = new ScriptedRows();
    const store = createWorkflowStore(client, {});
    store.subscribe(() => undefined);
    client.last.status("live");
    vi.advanceTimersByTime(5_000);
    expect(store.getSnapshot()).toMatchObject({ status: "live", lag: 0 });
    client.last.status("offline");
    vi.advanceTimersByTime(3_000);
    expect(store.getSnapshot()).toMatchObject({ status: "offline", lag: 3_000 });
    // On the way, but still without a connection.
    client.last.status("connecting");
    expect(store.getSnapshot().status).toBe("offline");
    client.last.status("catching-up");
    expect(store.getSnapshot().status).toBe("catching-up");
    client.last.status("live");
    expect(store.getSnapshot()).toMatchObject({ status: "live", lag: 0 });
  });

  it("lingers after the last listener, then closes; I3: no timer is left", () => {
    const client = new ScriptedRows();
    const store = createWorkflowStore(client, {}, { lingerMs: 500 });
    const leave = store.subscribe(() => undefined);
    leave();
    vi.advanceTimersByTime(400);
    const again = store.subscribe(() => undefined);
    vi.advanceTimersByTime(10_000);
    expect(client.subscriptions).toHaveLength(1);
    again();
    vi.advanceTimersByTime(500);
    expect(client.open).toBe(0);
    expect(vi.getTimerCount()).toBe(0);
    store.subscribe(() => undefined);
    expect(client.open).toBe(1);
  });

  it("shows why it was given up, and begins again with the next listener", () => {
    const client = new ScriptedRows();
    const store = createWorkflowStore(client, {});
    let told = 0;
    store.subscribe(() => told++);
    const error = new MillraceError("forbidden", "Not for you.");
    client.last.fail(error);
    vi.advanceTimersByTime(0);
    expect(told).toBe(1);
    expect(store.getSnapshot()).toMatchObject({ status: "offline", error });
    store.subscribe(() => undefined);
    expect(store.getSnapshot()).toMatchObject({ status: "catching-up", error: null });
    expect(client.subscriptions).toHaveLength(2);
    client.last.end();
    expect(store.getSnapshot()).toMatchObject({ status: "offline", error: null });
  });

  it("shares one store for a client and filters that mean the same, until it has closed", () => {
    const client = new ScriptedRows();
    const store = sharedWorkflowStore(client, { workflow: ["a", "b"] });
    expect(sharedWorkflowStore(client, { workflow: ["b", "a"] })).toBe(store);
    expect(sharedWorkflowStore(new ScriptedRows(), { workflow: ["a", "b"] })).not.toBe(store);
    store.subscribe(() => undefined)();
    vi.advanceTimersByTime(1_000);
    expect(sharedWorkflowStore(client, { workflow: ["a", "b"] })).not.toBe(store);
  });
});
