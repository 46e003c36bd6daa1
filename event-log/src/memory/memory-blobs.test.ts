import { describeBlobStore } from "../conformance/describe-blob-store.ts";
import { createMemoryHarness } from "./memory-harness.ts";

describeBlobStore("memory twin", async () => createMemoryHarness());
