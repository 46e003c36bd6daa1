/** What every adapter of the blob store must do, B1 and B2 of the port among it. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { limits } from "@millrace/schemas";
import type { BlobInfo, BlobStore } from "../blob-store.ts";
import type { EventLogHarness } from "./event-log-harness.ts";

export function describeBlobStore(adapter: string, createHarness: () => Promise<EventLogHarness>): void {
  describe(`blob store: ${adapter}`, () => {
    let harness: EventLogHarness;
    beforeAll(async () => {
      harness = await createHarness();
    });
    afterAll(() => harness.stop());

    /** Bytes that differ everywhere, so that parts in a wrong order show. */
    function bytesOf(size: number, seed = 1): Uint8Array {
      const bytes = new Uint8Array(size);
      let state = seed;
      for (let index = 0; index < size; index++) {
        state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
        bytes[index] = state >>> 24;
      }
      return bytes;
    }

    async function listed(store: BlobStore, workflowId?: string): Promise<BlobInfo[]> {
      const found: BlobInfo[] = [];
      for await (const info of store.list(workflowId === undefined ? {} : { workflowId })) found.push(info);
      return found;
    }

    test.for([0, 1, 524_288, 524_289, 1_600_000])(
      "B2 gives back the %i bytes that were put, on any connection",
      async (size) => {
        const [writer, reader] = [await harness.open("sizes"), await harness.open("sizes")];
        const bytes = bytesOf(size);
        const ref = await writer.blobs.put("order-1", bytes);
        expect(ref).toEqual({
          key: expect.stringMatching(/^order-1\/[0-9A-Z]{26}$/) as string,
          size,
          sha256: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
        });
        expect(Buffer.compare(await reader.blobs.get(ref.key, ref), bytes)).toBe(0);
        expect(Buffer.compare(await reader.blobs.get(ref.key), bytes)).toBe(0);
      },
    );

    test("B1 the same bytes again get a key of their own", async () => {
      const { blobs } = await harness.open("again");
      const first = await blobs.put("order-1", bytesOf(10));
      const second = await blobs.put("order-1", bytesOf(10));
      expect(second.key).not.toBe(first.key);
      await blobs.delete(first.key);
      expect(await blobs.get(second.key, second)).toHaveLength(10);
    });

    test("B2 refuses bytes that are not those of the reference", async () => {
      const { blobs } = await harness.open("corrupt");
      const ref = await blobs.put("order-1", bytesOf(100));
      const other = await blobs.put("order-1", bytesOf(100, 2));
      await expect(blobs.get(ref.key, other)).rejects.toMatchObject({
        code: "payload_corrupt",
        retryable: false,
      });
      await expect(blobs.get(ref.key, { ...ref, size: 99 })).rejects.toMatchObject({
        code: "payload_corrupt",
      });
    });

    test("says which blob is missing, also before anything was ever stored", async () => {
      const { blobs } = await harness.open("missing");
      const key = "order-1/01ARZ3NDEKTSV4RRFFQ69G5FAV";
      const missing = { code: "payload_missing", message: expect.stringContaining(key) as string };
      await expect(blobs.get(key)).rejects.toMatchObject(missing);
      expect(await blobs.delete(key)).toBe(false);
      expect(await listed(blobs)).toEqual([]);
      await blobs.put("order-1", bytesOf(5));
      await expect(blobs.get(key)).rejects.toMatchObject(missing);
    });

    test("takes no key that is none, and no run id that is none", async () => {
      const { blobs } = await harness.open("keys");
      for (const key of ["", "order-1", "order-1/x", "a.b/01ARZ3NDEKTSV4RRFFQ69G5FAV", "*/*"]) {
        await expect(blobs.get(key)).rejects.toMatchObject({ code: "invalid_id" });
        await expect(blobs.delete(key)).rejects.toMatchObject({ code: "invalid_id" });
      }
      await expect(blobs.put("order.*", bytesOf(1))).rejects.toMatchObject({ code: "invalid_id" });
    });

    test("refuses a blob beyond the limit, and names limit and size", async () => {
      const { blobs } = await harness.open("limit");
      const size = limits.blobBytes + 1;
      await expect(blobs.put("order-1", new Uint8Array(size))).rejects.toMatchObject({
        code: "payload_too_large",
        details: { limit: limits.blobBytes, actual: size },
      });
    });

    test("lists all, or those of one run, oldest first, without the deleted ones", async () => {
      const { blobs } = await harness.open("lists");
      const before = Date.now();
      const keys: string[] = [];
      for (const [workflowId, size] of [
        ["a", 10],
        ["b", 600_000],
        ["a", 20],
        ["a-b", 30],
      ] as const) {
        keys.push((await blobs.put(workflowId, bytesOf(size))).key);
      }
      const all = await listed(blobs);
      expect(all.map(({ key, size, complete }) => [key, size, complete])).toEqual(
        keys.map((key, index) => [key, [10, 600_000, 20, 30][index], true]),
      );
      for (const { storedAt } of all) {
        expect(storedAt).toBeGreaterThan(before - 60_000);
        expect(storedAt).toBeLessThan(Date.now() + 60_000);
      }
      expect((await listed(blobs, "a")).map(({ key }) => key)).toEqual([keys[0], keys[2]]);
      expect(await blobs.delete(keys[0] ?? "")).toBe(true);
      expect(await blobs.delete(keys[0] ?? "")).toBe(false);
      expect((await listed(blobs, "a")).map(({ key }) => key)).toEqual([keys[2]]);
      expect(await listed(blobs, "nobody")).toEqual([]);
    });

    test("deletes while it lists", async () => {
      const { blobs } = await harness.open("while-listing");
      for (let count = 0; count < 30; count++) await blobs.put("a", bytesOf(3));
      let deleted = 0;
      for await (const { key } of blobs.list()) if (await blobs.delete(key)) deleted++;
      expect(deleted).toBe(30);
      expect(await listed(blobs)).toEqual([]);
    });

    test("keeps what it has stored when the server is killed, and is unavailable meanwhile", async () => {
      const { blobs } = await harness.open("killed");
      const ref = await blobs.put("order-1", bytesOf(700_000));
      await harness.kill();
      await expect(blobs.get(ref.key, ref)).rejects.toMatchObject({ code: "unavailable", retryable: true });
      await harness.start();
      await expect
        .poll(() => blobs.get(ref.key, ref).then((bytes) => bytes.byteLength, String), {
          timeout: 20_000,
        })
        .toBe(700_000);
    });
  });
}
