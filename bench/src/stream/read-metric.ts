/**
 * The value of a server's metric, summed over its labels; 0 when it was never counted. `label`, as it is written
 * (`source="broker"`), leaves only what has it.
 */
export async function readMetric(port: number, name: string, label = ""): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${port}/metrics`);
  const text = await response.text();
  let sum = 0;
  for (const line of text.split("\n")) {
    const counts = line.startsWith(`${name} `) || (line.startsWith(`${name}{`) && line.includes(label));
    if (counts) sum += Number(line.split(" ").at(-1));
  }
  return sum;
}
