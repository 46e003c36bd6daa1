/** A real Chromium and one page for it: what the browser tests share. */
import { existsSync } from "node:fs";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { chromium, type Browser } from "playwright-core";
import { rolldown } from "rolldown";
import type { TestContext } from "vitest";

const chromiumFile = "/usr/bin/chromium";
/** Nothing of it may reach the network: it is to load one page from this machine. */
const chromiumArgs = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Skips the test, and says so, where Debian's package has put no Chromium. */
export function needChromium(context: TestContext, what: string): void {
  const missing = !existsSync(chromiumFile);
  if (missing) process.stdout.write(`${what}: skipped, there is no ${chromiumFile}\n`);
  context.skip(missing, `there is no ${chromiumFile}: install Debian's package chromium`);
}

export async function launchChromium(): Promise<Browser> {
  return await chromium.launch({ executablePath: chromiumFile, args: chromiumArgs });
}

/** A file of this repository (or the text of a module in it) with all that it imports, as a page would load it. */
export async function bundleForPage(
  entry: { readonly file: string } | { readonly text: string },
): Promise<string> {
  const virtual = "\0page.tsx";
  const bundle = await rolldown({
    input: "file" in entry ? entry.file : virtual,
    platform: "browser",
    cwd: fileURLToPath(new URL("../../", import.meta.url)),
    resolve: { conditionNames: ["@millrace/source", "browser", "import", "default"] },
    transform: { define: { "process.env.NODE_ENV": '"production"' } },
    plugins: [
      {
        name: "page",
        resolveId: (id) => (id === virtual ? id : null),
        load: (id) => (id === virtual && "text" in entry ? entry.text : null),
      },
    ],
  });
  const { output } = await bundle.generate({ format: "es", minify: true, codeSplitting: false });
  await bundle.close();
  return output[0].code;
}

export interface Site {
  readonly url: string;
  close(): void;
}

/** Serves one page, and `/client.js` for it, on a free port. */
export async function servePage(page: string, bundle: string): Promise<Site> {
  const server = createServer((request, response) => {
    const script = request.url === "/client.js";
    response.setHeader(
      "content-type",
      script ? "text/javascript; charset=utf-8" : "text/html; charset=utf-8",
    );
    response.end(script ? bundle : page);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("The page has no port.");
  return {
    url: `http://127.0.0.1:${address.port}/`,
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}
