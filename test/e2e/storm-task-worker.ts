/** A worker of the storm's queue in a process of its own, to be killed. Says `ready` on a line of its own. */
import { connect } from "@millrace/engine";
import { stormQueue, stormTasks } from "./storm-workflows.ts";

const [servers = "", namespace = ""] = process.argv.slice(2);
const millrace = await connect({ servers, namespace });
await millrace.worker({ workflows: [], tasks: stormTasks, queues: [stormQueue], taskConcurrency: 50 });
process.stdout.write("ready\n");
