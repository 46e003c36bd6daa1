import { expect, test } from "vitest";
import { sqliteError } from "./sqlite-error.ts";

test("a binary of another Node version, or none, is a native module that does not load, with the way out", () => {
  const other = Object.assign(new Error("was compiled against a different Node.js version\nusing…"), {
    code: "ERR_DLOPEN_FAILED",
  });
  const none = Object.assign(new Error("Could not locate the bindings file."), { tries: [] });
  for (const error of [other, none]) {
    expect(sqliteError(error, "Opening the projection p")).toMatchObject({
      code: "native_module_unsupported",
      message: expect.stringContaining("npm rebuild better-sqlite3") as string,
    });
  }
});

test("a full disk names the next step; what is not SQLite's is passed through", () => {
  const full = Object.assign(new Error("database or disk is full"), { code: "SQLITE_FULL" });
  expect(sqliteError(full, "Writing")).toMatchObject({ code: "data_folder_not_writable" });
  const other = new Error("other");
  expect(sqliteError(other, "Writing")).toBe(other);
});
