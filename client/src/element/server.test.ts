import { expect, it } from "vitest";

it("can be imported on a server, where there are no elements", async () => {
  expect(globalThis).not.toHaveProperty("customElements");
  expect(await import("./index.ts")).toHaveProperty("MillraceProgress");
});
