export type { CommitPage, CommitRow, ListOptions, Projection } from "./projection.ts";
