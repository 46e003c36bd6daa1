/** Millrace in React (18 and up): rows that stay up to date, over any network. */
export { MillraceProvider, type MillraceProviderProps } from "./millrace-provider.ts";
export { useWorkflow, type UseWorkflowOptions, type WorkflowView } from "./use-workflow.ts";
export { useWorkflows, type WorkflowsView } from "./use-workflows.ts";
export type { RowFilter, RowStatus } from "../workflow-store.ts";
export type { WorkflowRow } from "@millrace/schemas";
