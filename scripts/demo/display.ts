import { MultiBar } from "cli-progress";

/** How far the demo is, for somebody who watches. */
export interface ShownProgress {
  readonly runs: number;
  readonly totalRuns: number;
  readonly events: number;
  readonly cuts: number;
  readonly kills: number;
}

export interface Display {
  /** One line of talk. */
  say(line: string): void;
  /** As often as anything changes. */
  show(progress: ShownProgress): void;
  stop(): void;
}

const linesPerRun = 10;

/** On standard error: a bar in a terminal, else a line for each tenth of the way. */
export function createDisplay(): Display {
  return process.stderr.isTTY ? createBar() : createLines();
}

function createBar(): Display {
  const bars = new MultiBar({
    stream: process.stderr,
    format:
      "{bar} {value}/{total} runs | {events} events | {cuts} cuts | {kills} kills | {duration_formatted}",
    hideCursor: true,
    clearOnComplete: false,
  });
  let bar: ReturnType<MultiBar["create"]> | null = null;
  return {
    say(line) {
      if (bar === null) process.stderr.write(`${line}\n`);
      else bars.log(`${line}\n`);
    },
    show({ runs, totalRuns, events, cuts, kills }) {
      const payload = { events, cuts, kills };
      bar ??= bars.create(totalRuns, 0, payload);
      bar.update(runs, payload);
    },
    stop() {
      bars.stop();
      bar = null;
    },
  };
}

function createLines(): Display {
  let shown = 0;
  const say = (line: string): void => void process.stderr.write(`${line}\n`);
  return {
    say,
    show({ runs, totalRuns, events, cuts, kills }) {
      const tenth = Math.floor((runs * linesPerRun) / totalRuns);
      if (tenth <= shown) return;
      shown = tenth;
      say(`${runs}/${totalRuns} runs | ${events} events | ${cuts} cuts | ${kills} kills`);
    },
    stop: () => undefined,
  };
}
