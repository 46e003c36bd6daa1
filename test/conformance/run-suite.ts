/** Runs the rules against a server, several at a time, and says of each whether it holds. */
import { SeededRandom } from "../e2e/seeded-random.ts";
import { Kit, NotShown, type Rule, type Target } from "./kit.ts";

export interface Verdict {
  readonly rule: string;
  readonly about: string;
  readonly outcome: "holds" | "broken" | "not shown";
  readonly why: string;
  readonly ms: number;
}

export interface SuiteOptions {
  readonly target: Target;
  readonly rules: readonly Rule[];
  readonly seed: number;
  readonly concurrency?: number;
  /** For one thing to happen. */
  readonly deadlineMs?: number;
  readonly stopAtFirst?: boolean;
  readonly onVerdict?: (verdict: Verdict) => void;
}

export async function runSuite(options: SuiteOptions): Promise<Verdict[]> {
  const { rules, concurrency = 4, stopAtFirst = false, onVerdict } = options;
  const random = new SeededRandom(options.seed);
  const waiting = rules.map((rule) => ({ rule, random: random.fork() })).toReversed();
  const verdicts: Verdict[] = [];
  const work = async (): Promise<void> => {
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      const verdict = await judgeRule(next.rule, next.random, options);
      verdicts.push(verdict);
      onVerdict?.(verdict);
      if (stopAtFirst && verdict.outcome === "broken") waiting.length = 0;
    }
  };
  await Promise.all(Array.from({ length: concurrency }, work));
  return verdicts;
}

async function judgeRule(rule: Rule, random: SeededRandom, options: SuiteOptions): Promise<Verdict> {
  const started = performance.now();
  const kit = new Kit(options.target, rule.name, random, options.deadlineMs ?? 20_000);
  const verdict = (outcome: Verdict["outcome"], why: string): Verdict => ({
    rule: rule.name,
    about: rule.about,
    outcome,
    why,
    ms: Math.round(performance.now() - started),
  });
  let result: Verdict;
  try {
    await rule.run(kit);
    const breaches = kit.breaches();
    result =
      breaches.length === 0 ? verdict("holds", "") : verdict("broken", breaches.slice(0, 5).join("; "));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const seen = kit.breaches().slice(0, 3);
    result =
      error instanceof NotShown ? verdict("not shown", why) : verdict("broken", [...seen, why].join("; "));
  }
  await kit.close();
  return result;
}
