import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";

/** Asks a run to end. With `--json` the server's answer, which has the `sequence` of the request in the log. */
export async function cancel(
  api: ServerApi,
  output: Output,
  id: string,
  options: { readonly reason?: string },
): Promise<void> {
  const { reason } = options;
  const answer = (await api.post(
    `/v1/workflows/${encodeURIComponent(id)}/cancel`,
    reason === undefined ? {} : { reason },
  )) as {
    readonly sequence: number;
  };
  output.value(answer);
  output.text(
    `Cancel of ${id} requested (sequence ${answer.sequence}). Follow it with: millrace watch ${id} --from start`,
  );
}
