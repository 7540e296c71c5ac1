import { expect, test } from "vitest";
import { paths, roundUp, runs, summary } from "./scale";

const FRAME = { width: 100, height: 40, from_ms: 0, to_ms: 10, max: 4 };

test("the axis ends at a round number that holds the greatest value", () => {
  expect([0, 0.3, 1, 1.1, 2.4, 7, 99, 1200].map(roundUp)).toEqual([1, 0.5, 1, 2, 2.5, 10, 100, 2000]);
});

test("zero is drawn at the bottom, the maximum at the top", () => {
  expect(
    paths(
      [
        { t_ms: 0, value: 0 },
        { t_ms: 10, value: 4 },
      ],
      FRAME,
    ),
  ).toEqual({ line: "M0 40L100 0", area: "M0 40L100 0L100 40L0 40Z" });
});

test("a missing value breaks the line", () => {
  const points = [1, null, null, 2, 3].map((value, t_ms) => ({ t_ms, value }));
  expect(runs(points).map((run) => run.length)).toEqual([1, 2]);
  expect(paths(points, FRAME).line.match(/M/g)).toHaveLength(2);
});

test("the summary passes over missing values, and is null for none", () => {
  expect(summary([1, null, 5].map((value, t_ms) => ({ t_ms, value })))).toEqual({ last: 5, mean: 3, max: 5 });
  expect(summary([{ t_ms: 0, value: null }])).toBeNull();
});
