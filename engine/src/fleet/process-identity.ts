import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

/** This process as others know it, and what it can tell of others beside it. */
export interface ProcessIdentity {
  readonly host: string;
  readonly pid: number;
  /** Two processes with the same place can look each other up by their process ids. */
  readonly place: string;
  /** Whether a process of this place is gone for certain. */
  readonly isGone: (pid: number) => boolean;
}

export function processIdentity(): ProcessIdentity {
  const host = hostname();
  return { host, pid: process.pid, place: placeOf(host), isGone };
}

/**
 * On Linux one boot of one machine, and one space of process ids in it: containers may share a name, not these. The
 * name tells copies of a machine apart that were made while it ran.
 */
function placeOf(host: string): string {
  if (process.platform !== "linux") return `${process.platform}/${host}`;
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return `${boot}/${readlinkSync("/proc/self/ns/pid")}/${host}`;
  } catch {
    // Without /proc nobody can be looked up: a place that no other process has.
    return `unknown/${host}/${process.pid}/${performance.timeOrigin}`;
  }
}

function isGone(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    // Anything else (it belongs to another user) means that it is there.
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}
