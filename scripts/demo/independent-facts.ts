import { webcrypto } from "node:crypto";
import type { Reading, WordStatistics } from "./ingest.ts";

export interface FileFacts {
  readonly read: Reading;
  readonly checksum: string;
  readonly words: WordStatistics;
}

/** What `ingest` must find out about a file, computed in another way and in another process. */
export async function independentFacts(bytes: Uint8Array<ArrayBuffer>): Promise<FileFacts> {
  const digest = new Uint8Array(await webcrypto.subtle.digest("SHA-256", bytes));
  // `ignoreBOM`: keep the mark, as reading a file as text in Node does.
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  return {
    read: { bytes: bytes.byteLength, characters: text.length },
    checksum: [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
    words: scanWords(text),
  };
}

function scanWords(text: string): WordStatistics {
  const seen = new Set<string>();
  let [words, longestChars, start] = [0, 0, 0];
  for (let place = 0; place <= text.length; place++) {
    if (place < text.length && text.charAt(place).trim() !== "") continue;
    if (place > start) {
      words += 1;
      seen.add(text.slice(start, place));
      longestChars = Math.max(longestChars, place - start);
    }
    start = place + 1;
  }
  return { words, distinct: seen.size, longestChars };
}
