/**
 * Throws where workflow code asks for what a replay cannot give it again: the machine's clock, randomness, timers, the
 * network. For tests and development; in production it is off, and then it costs nothing.
 *
 * Owns: the global functions that it stands in for while a hold is open. Does not own: what a thrown error means for
 * the turn (`activation.ts`).
 * G1 Only code that was begun by `guarded` is refused; steps, queries and everything else of the process go on as ever.
 * G2 The engine's own code, called from workflow code through `ctx`, is not refused (`unguarded`).
 * G3 With the last hold released the globals are those of before.
 *
 * Tested by `determinism-guard.test.ts`.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import crypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { NonDeterministicCallError } from "./failures.ts";

interface Guarded {
  readonly workflowId: string;
  /** The turn fails even when the code catches what is thrown. */
  readonly onCall: (error: NonDeterministicCallError) => void;
}

/** What to call instead. */
const instead: Readonly<Record<string, string>> = {
  "Date.now()": "ctx.now()",
  "new Date()": "new Date(ctx.now())",
  "Date()": "new Date(ctx.now())",
  "Math.random()": "ctx.random()",
  "crypto.randomUUID()": "ctx.uuid()",
  "setTimeout()": "ctx.sleep(ms)",
  "setInterval()": "a loop with ctx.sleep(ms)",
  "setImmediate()": "ctx.sleep(0)",
  "fetch()": "ctx.step(name, () => fetch(…))",
};

const storage = new AsyncLocalStorage<Guarded | null>();
let holds = 0;
let restore = (): void => undefined;

/** Runs workflow code: what is refused in it, and in all that it awaits, is told to `onCall` and thrown. */
export function guarded<T>(
  workflowId: string,
  onCall: (error: NonDeterministicCallError) => void,
  code: () => T,
): T {
  return storage.run({ workflowId, onCall }, code);
}

/** Runs the engine's own code that workflow code has called. */
export function unguarded<T>(code: () => T): T {
  return holds === 0 ? code() : storage.run(null, code);
}

/** Puts the guard in place until the answer is called. Holds add up. */
export function holdGuard(): () => void {
  if (holds++ === 0) restore = install();
  let held = true;
  return () => {
    if (!held) return;
    held = false;
    if (--holds === 0) restore();
  };
}

function refuse(call: string): void {
  const guard = storage.getStore();
  if (guard === undefined || guard === null) return;
  const error = new NonDeterministicCallError(guard.workflowId, call, instead[call] ?? "ctx.step");
  guard.onCall(error);
  throw error;
}

function install(): () => void {
  const undo = [
    guardDate(),
    guardFunction(Date, "now", "Date.now()"),
    guardFunction(Math, "random", "Math.random()"),
    guardFunction(crypto, "randomUUID", "crypto.randomUUID()"),
    guardFunction(globalThis.crypto, "randomUUID", "crypto.randomUUID()"),
    guardFunction(globalThis, "setTimeout", "setTimeout()"),
    guardFunction(globalThis, "setInterval", "setInterval()"),
    guardFunction(globalThis, "setImmediate", "setImmediate()"),
    guardFunction(globalThis, "fetch", "fetch()"),
  ];
  // Modules that imported `randomUUID` from node:crypto by name see it too.
  syncBuiltinESMExports();
  return () => {
    for (const each of undo.toReversed()) each();
    syncBuiltinESMExports();
  };
}

/** The property as it was is put back whole: some are inherited, some are getters. */
function guardFunction<Key extends string>(
  owner: Record<Key, (...args: never[]) => unknown>,
  key: Key,
  call: string,
): () => void {
  const before = Object.getOwnPropertyDescriptor(owner, key);
  const original = owner[key];
  const stand = new Proxy(original, {
    apply(target, self, args) {
      refuse(call);
      return Reflect.apply(target, self, args) as unknown;
    },
  });
  Object.defineProperty(owner, key, { value: stand, configurable: true, writable: true });
  return () => {
    // Somebody else (fake timers of a test) stands in for it by now.
    if (owner[key] !== stand) return;
    if (before === undefined) delete (owner as Partial<typeof owner>)[key];
    else Object.defineProperty(owner, key, before);
  };
}

function guardDate(): () => void {
  const original = globalThis.Date;
  const stand: DateConstructor = new Proxy(original, {
    apply(target, self, args) {
      refuse("Date()");
      return Reflect.apply(target, self, args);
    },
    construct(target, args, newTarget) {
      if (args.length === 0) refuse("new Date()");
      return Reflect.construct(target, args, newTarget === stand ? target : newTarget) as object;
    },
  });
  globalThis.Date = stand;
  return () => {
    if (globalThis.Date === stand) globalThis.Date = original;
  };
}
