/** One command of the NATS protocol, with its payload. */
export interface NatsFrame {
  /** `["HPUB", subject, reply, headerBytes, bytes]`, `["MSG", subject, sid, bytes]`, … */
  readonly words: readonly string[];
  readonly bytes: Buffer;
}

const withPayload = new Set(["PUB", "HPUB", "MSG", "HMSG"]);

/** Cuts a byte stream into frames. Source: docs.nats.io, "NATS client protocol". */
export function createFrameReader(): (chunk: Buffer) => NatsFrame[] {
  let rest: Buffer = Buffer.alloc(0);
  return (chunk) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    const frames: NatsFrame[] = [];
    let start = 0;
    for (;;) {
      const lineEnd = rest.indexOf("\r\n", start);
      if (lineEnd === -1) break;
      const words = rest.toString("latin1", start, lineEnd).split(" ");
      const verb = words[0] ?? "";
      const payload = withPayload.has(verb) ? Number(words.at(-1)) + 2 : 0;
      const end = lineEnd + 2 + payload;
      if (end > rest.length) break;
      frames.push({ words, bytes: rest.subarray(start, end) });
      start = end;
    }
    rest = rest.subarray(start);
    return frames;
  };
}
