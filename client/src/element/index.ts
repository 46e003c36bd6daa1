/**
 * `<millrace-progress workflow="order-42">`: a progress bar that follows a run, without a framework. Importing this
 * module defines the element where there are custom elements; on a server it does nothing.
 */
import { defineMillraceProgress, MillraceProgress } from "./millrace-progress.ts";

export { defineMillraceProgress, MillraceProgress };
export type { MillraceProgressDetail } from "./millrace-progress.ts";
export type { RowStatus } from "../workflow-store.ts";
export type { WorkflowRow } from "@millrace/schemas";

defineMillraceProgress();
