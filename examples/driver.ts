/**
 * An external driver: this program is the orchestrator, Millrace remembers. Plain HTTP, no library of ours.
 * Run it twice with the same id, or kill it half-way and run it again: no step is done twice.
 *
 *   node examples/dist/driver.js [id]          (MILLRACE_URL, default http://127.0.0.1:8001)
 */
import { setTimeout as delay } from "node:timers/promises";

const url = process.env["MILLRACE_URL"] ?? "http://127.0.0.1:8001";
const id = process.argv[2] ?? `permit-${Date.now()}`;
const plan = { check: () => ({ complete: true }), decide: () => ({ granted: true }) };

type Begun =
  | { readonly outcome: "execute"; readonly token: string; readonly attempt: number }
  | { readonly outcome: "completed"; readonly output: unknown }
  | { readonly outcome: "failed"; readonly error: { readonly message: string } }
  | { readonly outcome: "wait"; readonly until: string };

async function post<Answer>(path: string, body: object): Promise<Answer> {
  const response = await fetch(`${url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const answer: unknown = await response.json();
  if (!response.ok) throw new Error(`${path}: ${response.status} ${JSON.stringify(answer)}`);
  return answer as Answer;
}

async function step(name: string, work: () => unknown): Promise<unknown> {
  const path = `/v1/workflows/${id}/steps/${name}`;
  for (;;) {
    const begun = await post<Begun>(`${path}/begin`, {});
    switch (begun.outcome) {
      case "completed":
        console.log(`${name}: done before`);
        return begun.output;
      case "failed":
        throw new Error(`${name} failed for good: ${begun.error.message}`);
      case "wait":
        await delay(Math.max(0, Date.parse(begun.until) - Date.now()));
        continue;
      case "execute":
        try {
          const output = work();
          await post(`${path}/complete`, { token: begun.token, output });
          console.log(`${name}: done in attempt ${begun.attempt}`);
          return output;
        } catch (error) {
          await post(`${path}/fail`, { token: begun.token, error: { message: String(error) } });
        }
    }
  }
}

await post("/v1/workflows", {
  type: "permit",
  id,
  driver: "external",
  steps: Object.keys(plan),
  input: { case: 1 },
});
const outputs: Record<string, unknown> = {};
for (const [name, work] of Object.entries(plan)) outputs[name] = await step(name, work);
await post(`/v1/workflows/${id}/complete`, { output: outputs });
console.log(`${id}: completed`);
