import { describe, expect, it } from "vitest";
import { loadUws } from "./load-uws.ts";

describe("loadUws", () => {
  it("loads the binary of this platform", async () => {
    expect(typeof (await loadUws()).App).toBe("function");
  });

  it("says which combinations work when there is no binary that loads", async () => {
    const glibc = new Error(
      "This version of uWS.js supports only …\n\nError: /lib/libc.so.6: version `GLIBC_2.38' not found (required by uws_linux_x64_127.node)",
    );
    await expect(loadUws(() => Promise.reject(glibc))).rejects.toMatchObject({
      code: "native_module_unsupported",
      cause: glibc,
      message: expect.stringMatching(
        /GLIBC_2\.38.*not musl.*Node 20 needs glibc 2\.27.*Node 22, 24 and 25 need glibc 2\.38.*Use Node 20/,
      ),
      details: { node: process.versions.node },
    });
  });
});
