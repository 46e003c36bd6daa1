import { useMemo, useSyncExternalStore } from "react";
import {
  emptySnapshot,
  sharedWorkflowStore,
  type RowFilter,
  type WorkflowsSnapshot,
} from "../workflow-store.ts";
import { useRowClient } from "./millrace-provider.ts";

const nothing = {
  getSnapshot: () => emptySnapshot,
  subscribe: () => () => undefined,
};

/** `filter` must be the same object as long as it means the same; null follows nothing. */
export function useRows(filter: RowFilter | null): WorkflowsSnapshot {
  const client = useRowClient();
  const store = useMemo(
    () => (filter === null ? nothing : sharedWorkflowStore(client, filter)),
    [client, filter],
  );
  // While a server's page is taken over (hydration) it must render what the server had: nothing.
  return useSyncExternalStore(store.subscribe, store.getSnapshot, () => emptySnapshot);
}
