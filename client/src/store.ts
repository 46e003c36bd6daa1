export {
  createWorkflowStore,
  type RowClient,
  type RowFilter,
  type RowStatus,
  type WorkflowStore,
  type WorkflowStoreOptions,
  type WorkflowsSnapshot,
} from "./workflow-store.ts";
export type { WorkflowRow } from "@millrace/schemas";
