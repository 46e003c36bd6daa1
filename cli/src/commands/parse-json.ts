import { MillraceError } from "@millrace/schemas";

/** An option's JSON; `invalid_json` names the option. */
export function parseJson(option: string, text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new MillraceError(
      "invalid_json",
      `${option} is not JSON (${reason}). Quote it for the shell, e.g. ${option} '{"name":"Ada"}'.`,
      { cause },
    );
  }
}
