import { defineConfig } from "vitest/config";

// Tests run on the sources of all packages, so that a unit test needs no build. The end-to-end tests start
// the built command, which `npm test` builds first.
const resolve = { conditions: ["@millrace/source", "node", "import", "default"] };
const ssr = {
  resolve: { conditions: resolve.conditions, externalConditions: ["node", "import", "default"] },
};
const packages = "{schemas,event-log,engine,projector,stream-server,client,cli,scripts,test,bench,examples}";

export default defineConfig({
  resolve,
  ssr,
  test: {
    projects: [
      {
        resolve,
        ssr,
        test: {
          name: "unit",
          include: [`${packages}/**/*.test.ts`],
          exclude: ["**/node_modules/**", "**/dist/**", "**/*.{nats,e2e,browser}.test.ts"],
          testTimeout: 20_000,
          // Not how long it takes: how long a loaded machine may take.
          expect: { poll: { timeout: 15_000 } },
        },
      },
      {
        resolve,
        ssr,
        test: {
          name: "broker",
          include: [`${packages}/**/*.nats.test.ts`],
          exclude: ["**/node_modules/**", "**/dist/**"],
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
      {
        resolve,
        ssr,
        test: {
          name: "e2e",
          include: [`${packages}/**/*.{e2e,browser}.test.ts`],
          exclude: ["**/node_modules/**", "**/dist/**"],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          fileParallelism: false,
        },
      },
    ],
  },
});
