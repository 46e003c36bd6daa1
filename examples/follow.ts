/** Follows every run and resumes where it was: kill it, wait, start it again. Nothing is missed, nothing comes twice. */
import { readFile, writeFile } from "node:fs/promises";
import { createClient } from "@millrace/client";
import { WebSocket } from "ws";

const [cursorFile = "cursor.txt", url = "http://127.0.0.1:8001"] = process.argv.slice(2);
const from = await readFile(cursorFile, "utf8").catch(() => "start");
const client = createClient({ url, WebSocket });
for await (const item of client.watch({}, { from })) {
  if (item.kind !== "event") continue;
  console.log(item.sequence, item.type, item.workflowId);
  await writeFile(cursorFile, item.cursor);
}
