/** An engine in a process of its own, to be killed: hosts the runs of the take-over benchmark. */
import { connect } from "@millrace/engine";
import { takeOverGroup, takeOverLeaseMs, waiting, working } from "./take-over-workflows.ts";

const [natsUrl = "", namespace = ""] = process.argv.slice(2);
const millrace = await connect({ servers: natsUrl, namespace });
await millrace.worker({
  workflows: [waiting, working],
  group: takeOverGroup,
  leaseMs: takeOverLeaseMs,
  concurrency: 100_000,
});
process.stdout.write("ready\n");
