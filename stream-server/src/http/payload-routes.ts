import type { BlobStore } from "@millrace/event-log";
import { assertWorkflowId, blobKey } from "@millrace/schemas";
import type { HttpAnswer, HttpRequest } from "./message.ts";
import type { Params, Route } from "./router.ts";

/**
 * Payloads that were too large for the log, as they are stored: JSON, or what the codec made of it. This server has no
 * keys, so nothing sealed leaves it in the clear.
 */
export function payloadRoutes(blobs: BlobStore): readonly Route[] {
  async function payload(_request: HttpRequest, params: Params): Promise<HttpAnswer> {
    const id = params["id"];
    assertWorkflowId(id);
    const bytes = await blobs.get(blobKey(id, params["payload"] ?? ""));
    // Never as JSON: whoever asks knows from the reference what it is, and a browser must not guess.
    return { status: 200, body: bytes, contentType: "application/octet-stream" };
  }
  return [{ method: "GET", path: "/v1/workflows/{id}/payloads/{payload}", handler: payload }];
}
