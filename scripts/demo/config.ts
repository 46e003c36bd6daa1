/** What the parts are given of this process's environment: a broker of the user's is not for a demo to write to. */
export function serverEnvironment(): Readonly<Record<string, string | undefined>> {
  const kept = new Set(["MILLRACE_NATS_SERVER", "MILLRACE_LOG"]);
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith("MILLRACE_") || kept.has(name)),
  );
}
