/** A close frame has 125 bytes, of which the code takes two. */
const reasonBytesMax = 123;

/** As much of the reason as a close frame holds, never cut inside a character: clients fail on text that is not UTF-8. */
export function closeReason(reason: string): Uint8Array {
  const bytes = Buffer.from(reason);
  if (bytes.byteLength <= reasonBytesMax) return bytes;
  let end = reasonBytesMax;
  while (((bytes[end] ?? 0) & 0b1100_0000) === 0b1000_0000) end--;
  return bytes.subarray(0, end);
}
