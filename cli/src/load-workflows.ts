import { pathToFileURL } from "node:url";
import type { AnyWorkflowDefinition } from "@millrace/engine";
import { MillraceError } from "@millrace/schemas";

/**
 * The definitions that the modules export, by name or within exported arrays; each once, in the order of the files.
 * `invalid_request` for a module that cannot be loaded or exports none.
 */
export async function loadWorkflows(files: readonly string[]): Promise<AnyWorkflowDefinition[]> {
  const found = new Set<AnyWorkflowDefinition>();
  for (const file of files) {
    const exported = Object.values(await load(file)).flat();
    const definitions = exported.filter(isDefinition);
    if (definitions.length === 0) {
      throw new MillraceError(
        "invalid_request",
        `Workflow module ${file} exports no workflow. Export what defineWorkflow(…) returns, by name.`,
      );
    }
    for (const definition of definitions) found.add(definition);
  }
  return [...found];
}

async function load(file: string): Promise<Record<string, unknown>> {
  try {
    return (await import(pathToFileURL(file).href)) as Record<string, unknown>;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new MillraceError(
      "invalid_request",
      `Workflow module ${file} cannot be loaded: ${reason} Give the path of a JavaScript module (build TypeScript first).`,
      { cause, details: { file } },
    );
  }
}

function isDefinition(value: unknown): value is AnyWorkflowDefinition {
  if (typeof value !== "object" || value === null) return false;
  const { type, version, run } = value as Partial<Record<keyof AnyWorkflowDefinition, unknown>>;
  return typeof type === "string" && typeof version === "string" && typeof run === "function";
}
