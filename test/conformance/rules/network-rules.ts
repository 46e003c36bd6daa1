/** Networks that cut, stall, garble and reorder: nothing is lost and nothing comes twice, for a client by the document and for ours. */
import { faults, type Fault } from "../fault-proxy.ts";
import { followRaw, followWithClient } from "../followers.ts";
import type { Kit, Rule } from "../kit.ts";

const runs = 2;
const steps = 12;

const about: Readonly<Record<Fault, string>> = {
  cut: "a connection that is reset in the midst of traffic",
  truncate: "a connection that ends in the middle of a frame",
  "half-open": "a connection that is dead and does not know it: heartbeats stay away",
  overtake: "a new connection that is served before the server knows that the old one is gone",
  delay: "a link that delays everything",
  jitter: "a link that delays by a different time for each packet, both ways",
  slow: "a link that takes a few hundred kilobytes a second",
};

/** After every few entries the fault is done to what is open; at the end both clients have exactly the truth. */
async function through(
  kit: Kit,
  inflict: (proxy: Awaited<ReturnType<Kit["proxy"]>>, n: number) => void,
  times: number,
): Promise<void> {
  const probe = await kit.open();
  const { heartbeatMs } = probe.hello;
  const proxy = await kit.proxy();
  const followers = [followRaw(proxy.url, kit.mine, heartbeatMs), followWithClient(proxy.url, kit.mine)];
  for (const follower of followers) kit.cleanup(() => follower.close());
  const ids = kit.ids(runs);
  for (const id of ids) await kit.driver.start(id, kit.type);
  let last = 0;
  const patienceMs = kit.deadlineMs + 6 * heartbeatMs * times;
  for (let n = 0; n < times; n++) {
    for (const id of ids) {
      for (let step = 1; step <= steps / times; step++) {
        const name = n * Math.floor(steps / times) + step;
        last = await kit.driver.step(id, name === 1 ? "work" : `work#${name}`, {
          name,
          text: "x".repeat(200),
        });
        if (step === 1) inflict(proxy, n);
      }
    }
    // The next blow falls on connections that work again.
    await kit.eventually(
      `both have ${last} after blow ${n + 1}`,
      () => followers.every(({ entries }) => (entries.at(-1)?.[0] ?? 0) >= last),
      patienceMs,
    );
  }
  for (const id of ids) last = await kit.driver.complete(id);
  await kit.eventually(
    `both have the last, ${last}`,
    () => followers.every(({ entries }) => (entries.at(-1)?.[0] ?? 0) >= last),
    patienceMs,
  );
  const truth = await kit.driver.truth(ids, last);
  for (const { name, entries, breaches } of followers) {
    kit.exact(entries, truth, name);
    kit.assert(breaches.length === 0, `${name}: ${breaches.slice(0, 3).join("; ")}`);
  }
  kit.assert([...proxy.done.values()].reduce((sum, each) => sum + each, 0) >= times, "the proxy did nothing");
  const lasting = new Set<Fault>(["delay", "jitter", "slow"]);
  if ([...proxy.done.keys()].some((fault) => !lasting.has(fault)))
    kit.assert(proxy.taken > followers.length, `nobody had to connect again: ${proxy.taken} connections`);
}

const single: readonly Rule[] = faults.map((fault) => ({
  name: `network-${fault}`,
  about: `exact through ${about[fault]}`,
  run: (kit) => through(kit, (proxy) => proxy.inflict(fault), fault === "half-open" ? 1 : 3),
}));

const storm: Rule = {
  name: "network-storm",
  about: "exact through several faults at once, drawn from the seed",
  run: (kit) =>
    through(
      kit,
      (proxy) => {
        proxy.inflictAny(["delay", "jitter", "slow"]);
        proxy.inflictAny(["cut", "truncate", "overtake"]);
        proxy.inflictAny(["cut", "truncate", "overtake", "jitter"]);
      },
      4,
    ),
};

export const networkRules: readonly Rule[] = [...single, storm];
