import { MillraceError } from "@millrace/schemas";
import { expect, it } from "vitest";
import { silentLogger } from "./logger.ts";
import { ProjectionWait } from "./projection-wait.ts";

interface Question {
  readonly sequence: number;
  readonly resolve: (reached: number) => void;
  readonly reject: (error: Error) => void;
}

function waiting() {
  const questions: Question[] = [];
  const projection = {
    waitFor: (sequence: number) =>
      new Promise<number>((resolve, reject) => questions.push({ sequence, resolve, reject })),
  };
  const wait = new ProjectionWait(projection, silentLogger);
  const woken: string[] = [];
  const until = (name: string, sequence: number) => wait.until({ name }, sequence, () => woken.push(name));
  const turns = async () => {
    for (let n = 0; n < 5; n++) await Promise.resolve();
  };
  return { questions, woken, until, turns };
}

it("asks for the lowest, and for a lower one at once when it comes later", async () => {
  const { questions, woken, until, turns } = waiting();
  until("hundred", 100);
  until("two hundred", 200);
  until("fifty", 50);
  expect(questions.map(({ sequence }) => sequence)).toEqual([100, 50]);
  questions[1]?.resolve(60);
  await turns();
  expect(woken).toEqual(["fifty"]);
  questions[0]?.resolve(150);
  await turns();
  expect(woken).toEqual(["fifty", "hundred"]);
  questions.at(-1)?.resolve(200);
  await turns();
  expect(woken).toEqual(["fifty", "hundred", "two hundred"]);
});

it("asks again after a question ran out of time, only while somebody waits", async () => {
  const { questions, woken, until, turns } = waiting();
  until("one", 7);
  questions[0]?.reject(new MillraceError("projector_behind", "not yet"));
  await turns();
  expect(questions.map(({ sequence }) => sequence)).toEqual([7, 7]);
  questions[1]?.resolve(9);
  await turns();
  expect([woken, questions.length]).toEqual([["one"], 2]);
});
