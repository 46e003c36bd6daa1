export { openProjection, type OpenedProjection, type OpenProjectionOptions } from "./open-projection.ts";
export type {
  AttributeRange,
  CommitPage,
  ProjectionSnapshot,
  CommitRow,
  ListOptions,
  RunFilter,
  Projection,
  QuarantinedCommit,
  ScheduleListOptions,
} from "./projection.ts";
export {
  projectorTopic,
  startProjector,
  type Projector,
  type ProjectorOptions,
  type ProjectorStatus,
} from "./projector.ts";
export type { ProjectorLogger } from "./logger.ts";
export type { PoisonPolicy } from "./core/fold-batch.ts";
export { rebuildProjection, verifyProjection, type RebuildOptions, type Verification } from "./rebuild.ts";
export { hashProjection, type ProjectionHash } from "./sqlite/hash-projection.ts";
