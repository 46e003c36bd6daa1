export type { StepContext, StepOptions, WorkflowContext } from "./context.ts";
export type { WorkflowDefinition, WorkflowOptions } from "./definition.ts";
export type {
  Driver,
  Millrace,
  Mutation,
  OperatorReason,
  StartOptions,
  StartResult,
  WorkflowHandle,
} from "./millrace.ts";
export type { RetryPolicy } from "./retry.ts";
