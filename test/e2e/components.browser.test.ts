/**
 * The React hooks and the web component in a page of a real browser, with a real server: they show a run from before
 * it exists to its end, over cuts, and never more often than they must.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { expect, it } from "vitest";
import { bundleForPage, launchChromium, needChromium, servePage } from "./browser-site.ts";
import { CuttingProxy } from "./cutting-proxy.ts";
import { HttpApi } from "./http-api.ts";
import { MillraceProcess } from "./millrace-process.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const waitMs = 60_000;

const guide = new URL("../../docs/guides/pages.md", import.meta.url);

/** What the guide shows is what runs here; only the address is this test's. */
async function exampleOf(language: "tsx" | "html", streamUrl: string): Promise<string> {
  const text = await readFile(guide, "utf8");
  const example = text.split("```" + language + "\n")[1]?.split("```")[0] ?? "";
  const address = '"ws://127.0.0.1:8001"';
  expect(example.split(address), `addresses in the ${language} example`).toHaveLength(2);
  if (language === "html") return example.replace(address, JSON.stringify(streamUrl));
  const options = `${JSON.stringify(streamUrl)}, backoff: { minMs: 50, maxMs: 500 }`;
  return `${example.replace(address, options)}\nimport "@millrace/client/element";\nwindow.client = client;\n`;
}

it("React hooks and web component show runs as they go, over cuts of the network", async (context) => {
  needChromium(context, "components");
  const folder = await temporaryFolder();
  const server = await MillraceProcess.start(["dev", "--data", join(folder.path, "data"), "--port", "0"]);
  const proxy = await CuttingProxy.start(server.ready.url);
  const streamUrl = `ws://127.0.0.1:${proxy.port}`;
  const bundle = await bundleForPage({ text: await exampleOf("tsx", streamUrl) });
  const element = (await exampleOf("html", streamUrl)).split("</script>")[1] ?? "";
  const site = await servePage(pageOf(element), bundle);
  const browser = await launchChromium();
  const api = new HttpApi(server.ready.url);
  try {
    const page = await browser.newPage();
    const failures: string[] = [];
    page.on("pageerror", (error) => failures.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") failures.push(message.text());
    });
    await page.goto(site.url);
    await shows(page, "#order", "not started (live)");
    await page.getByRole("progressbar", { name: "Your order" }).waitFor();

    const start = { type: "order", driver: "external", steps: ["pack", "send", "bill"] };
    await api.mustPost("/v1/workflows", { ...start, id: "order-42" });
    await api.mustPost("/v1/workflows", { ...start, id: "beside" });
    await shows(page, "#orders", /beside: running.*order-42: running|order-42: running.*beside: running/);
    for (const step of ["pack", "send"]) {
      const { token } = await api.mustPost("/v1/workflows/order-42/steps/" + step + "/begin", {});
      await api.mustPost(`/v1/workflows/order-42/steps/${step}/complete`, { token, output: null });
      // The page may learn of it only over a new connection.
      proxy.cutAll();
    }
    await shows(page, "#order", /^2 of 3: running \(live\)$/);
    await barShows(page, 67);

    proxy.down = true;
    proxy.cutAll();
    await shows(page, "#order", /running \(offline.*\)$/);
    await page.locator("millrace-progress[stream-status=offline]").waitFor({ timeout: waitMs });
    const { token } = await api.mustPost("/v1/workflows/order-42/steps/bill/begin", {});
    await api.mustPost("/v1/workflows/order-42/steps/bill/complete", { token, output: null });
    await api.mustPost("/v1/workflows/order-42/complete", { output: "done" });
    proxy.down = false;
    await shows(page, "#order", /^3 of 3: completed \(live\)$/);
    await shows(page, "#orders", /order-42: completed/);
    await page
      .locator("millrace-progress[run-status=completed][stream-status=live]")
      .waitFor({ timeout: waitMs });
    await barShows(page, 100);
    if (process.env["MILLRACE_SCREENSHOT"] !== undefined)
      await page.screenshot({ path: process.env["MILLRACE_SCREENSHOT"] });
    expect(await page.evaluate("client.stats.gaps + client.stats.duplicates")).toBe(0);
    // A refused connection is told by the browser itself.
    expect(failures.filter((failure) => !failure.includes("WebSocket connection"))).toEqual([]);
  } finally {
    await browser.close();
    site.close();
    await proxy.close();
    await server.stop();
    await folder.remove();
  }
});

async function barShows(page: Page, percent: number): Promise<void> {
  const bar = page.locator(`[role=progressbar][aria-label="Your order"][aria-valuenow="${percent}"]`);
  await bar.waitFor({ timeout: waitMs });
}

async function shows(page: Page, selector: string, text: string | RegExp): Promise<void> {
  const wanted = page.locator(selector).filter({ hasText: text });
  await wanted.waitFor({ timeout: waitMs }).catch(async (cause: unknown) => {
    const shown = await page.locator(selector).textContent();
    throw new Error(`${selector} shows ${JSON.stringify(shown)}, expected ${String(text)}`, { cause });
  });
}

function pageOf(element: string): string {
  return `<!doctype html>
<meta charset="utf-8">
<title>Orders</title>
<style>body { font: 16px sans-serif; max-inline-size: 30em; margin: 2em; } millrace-progress { --millrace-color: #1565c0; }</style>
${element}
<main></main>
<script type="module" src="/client.js"></script>`;
}
