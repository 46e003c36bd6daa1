/**
 * The stream client in a page of a real browser, through the loss of its network, cuts and a reload: at the end the
 * page has exactly the log's events.
 *
 * Needs a Chromium at the place where Debian's package puts it; without one it is skipped and says so.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import type { Page } from "playwright-core";
import { expect, it } from "vitest";
import { openEventLog } from "@millrace/event-log";
import { bundleForPage, launchChromium, needChromium, servePage } from "./browser-site.ts";
import { compareStreams, noFaults } from "./compare-streams.ts";
import { CuttingProxy } from "./cutting-proxy.ts";
import { driveOpenCase, type ExternalStep } from "./external-driver.ts";
import { HttpApi } from "./http-api.ts";
import { MillraceProcess } from "./millrace-process.ts";
import { eventLine, expectedEvents } from "./read-log.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const clientSource = fileURLToPath(new URL("../../client/src/index.ts", import.meta.url));
const workflowId = "page-1";
const waitMs = 60_000;

/** What the page keeps, over reloads too: cursor and events in one write, as the client's docs advise. */
interface PageState {
  readonly cursor: string | null;
  readonly received: readonly (readonly [sequence: number, type: string, data: unknown])[];
  readonly statuses: readonly string[];
  readonly loads: number;
  readonly error: string | null;
}

it("keeps a page exact over a network that goes away, cuts, and a reload", async (context) => {
  needChromium(context, "page");
  const folder = await temporaryFolder();
  const server = await MillraceProcess.start(["dev", "--data", join(folder.path, "data"), "--port", "0"]);
  const { url, natsUrl, namespace } = server.ready;
  const log = await openEventLog({ servers: natsUrl, namespace });
  const proxy = await CuttingProxy.start(url);
  const bundle = await bundleForPage({ file: clientSource });
  const site = await servePage(pageOf(`ws://127.0.0.1:${proxy.port}`), bundle);
  const browser = await launchChromium();
  let goesOn = true;
  try {
    const browserContext = await browser.newContext();
    const page = await browserContext.newPage();
    const driving = driveOpenCase(new HttpApi(url), {
      id: workflowId,
      type: "watched",
      input: null,
      steps: ticks(() => goesOn),
      output: "done",
      pauseMs: () => 40,
    });
    await page.goto(site.url);
    await grows(page, 10);

    // Cut before: Chromium leaves sockets that are open as they are when it is told to be offline, and its network
    // service was seen to spin for a minute when frames then came on one.
    proxy.down = true;
    proxy.cutAll();
    await page.waitForFunction("state().statuses.includes('offline')", undefined, { timeout: waitMs });
    await browserContext.setOffline(true);
    const before = await stateOf(page);
    const { lastSequence } = await log.info();
    await grownTo(new HttpApi(url), lastSequence + 20);
    expect((await stateOf(page)).received).toEqual(before.received);
    proxy.down = false;
    await browserContext.setOffline(false);
    await grows(page, 30);

    for (let cut = 0; cut < 5; cut++) {
      proxy.cutAll();
      await grows(page, 6);
    }
    await page.reload();
    await grows(page, 10);

    goesOn = false;
    await driving;
    const expected = expectedEvents(await log.load(workflowId), {});
    await page.waitForFunction(`state().received.length >= ${expected.length}`, undefined, {
      timeout: waitMs,
    });
    const state = await stateOf(page);
    const received = state.received.map(([sequence, type, data]) =>
      eventLine(sequence, workflowId, type, data),
    );
    expect(compareStreams(expected, received)).toEqual(noFaults);
    expect(state).toMatchObject({ error: null, loads: 2 });
    expect(expected.length).toBeGreaterThan(80);
    expect(await page.evaluate("client.stats.gaps + client.stats.duplicates")).toBe(0);
    process.stdout.write(
      `page: ${expected.length} events over ${proxy.cuts} cuts; the client's bundle is ${bundle.length} bytes, ` +
        `${gzipSync(bundle).length} with gzip\n`,
    );
  } finally {
    goesOn = false;
    await browser.close();
    site.close();
    await proxy.close();
    await log.close();
    await server.stop();
    await folder.remove();
  }
});

function* ticks(goesOn: () => boolean): Generator<ExternalStep> {
  for (let tick = 1; goesOn(); tick++) {
    yield { step: tick === 1 ? "tick" : `tick#${tick}`, output: { tick, text: "Grüße 🚦" }, failures: 0 };
  }
}

async function stateOf(page: Page): Promise<PageState> {
  return await page.evaluate<PageState>("state()");
}

/** Waits until the page has so many events more than now. */
async function grows(page: Page, by: number): Promise<void> {
  const { received } = await stateOf(page);
  await page.waitForFunction(`state().received.length >= ${received.length + by}`, undefined, {
    timeout: waitMs,
  });
}

/** Waits until the run has reached a sequence: answered by the server when its projector has it. */
async function grownTo(api: HttpApi, sequence: number): Promise<void> {
  const deadline = performance.now() + waitMs;
  while ((await api.send("GET", `/v1/workflows/${workflowId}?min=${sequence}`)).status !== 200) {
    if (performance.now() > deadline) throw new Error(`The run did not reach ${sequence} in ${waitMs} ms.`);
  }
}

function pageOf(streamUrl: string): string {
  return `<!doctype html>
<meta charset="utf-8">
<title>Millrace</title>
<script type="module">
  import { createClient } from "/client.js";
  const empty = { cursor: null, received: [], statuses: [], loads: 0, error: null };
  const state = JSON.parse(localStorage.getItem("state")) ?? empty;
  const save = () => localStorage.setItem("state", JSON.stringify(state));
  state.loads++;
  const client = createClient({ url: ${JSON.stringify(streamUrl)}, backoff: { minMs: 50, maxMs: 500 } });
  client.subscribe({ workflow: [${JSON.stringify(workflowId)}] }, {
    from: state.cursor ?? "start",
    onEvent: ({ sequence, type, data }) => { state.received.push([sequence, type, data]); },
    onCursor: (cursor) => { state.cursor = cursor; save(); },
    onStatus: (status) => { state.statuses.push(status); },
    onError: (error) => { state.error = String(error); },
  });
  Object.assign(window, { client, state: () => state });
</script>`;
}
