/** Where the points of a small line chart lie. The time runs from left to right in every language, as on any axis of time. */

export type Point = { t_ms: number; value: number | null };
export type Frame = { width: number; height: number; from_ms: number; to_ms: number; max: number };

const STEPS = [1, 2, 2.5, 5, 10];

/** The least round number (1, 2, 2.5 or 5 times a power of ten) that is not below `value`; 1 for 0. */
export function roundUp(value: number): number {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = STEPS.find((one) => one * power >= value * (1 - 1e-9)) ?? 10;
  return step * power;
}

/** Runs of points with no gap: a value that is missing breaks the line rather than being drawn as 0. */
export function runs(points: readonly Point[]): { t_ms: number; value: number }[][] {
  const found: { t_ms: number; value: number }[][] = [];
  let isOpen = false;
  for (const { t_ms, value } of points) {
    if (value === null) isOpen = false;
    else if (isOpen) found.at(-1)?.push({ t_ms, value });
    else {
      found.push([{ t_ms, value }]);
      isOpen = true;
    }
  }
  return found;
}

/** The line of all points, as the `d` of an SVG path; one for the area below it, which comes back to the zero line. */
export function paths(points: readonly Point[], frame: Frame): { line: string; area: string } {
  const x = (t_ms: number) => round(((t_ms - frame.from_ms) / Math.max(frame.to_ms - frame.from_ms, 1)) * frame.width);
  const y = (value: number) => round(frame.height * (1 - Math.min(value / frame.max, 1)));
  let line = "";
  let area = "";
  for (const run of runs(points)) {
    const first = run[0];
    const last = run.at(-1);
    if (first === undefined || last === undefined) continue;
    const steps = run.map((point) => `${x(point.t_ms)} ${y(point.value)}`).join("L");
    line += `M${steps}`;
    area += `M${steps}L${x(last.t_ms)} ${String(frame.height)}L${x(first.t_ms)} ${String(frame.height)}Z`;
  }
  return { line, area };
}

/** The last, the mean and the greatest value; null where there is no point. */
export function summary(points: readonly Point[]): { last: number; mean: number; max: number } | null {
  const values = points.map((point) => point.value).filter((value) => value !== null);
  const last = values.at(-1);
  if (last === undefined) return null;
  return { last, mean: values.reduce((sum, value) => sum + value, 0) / values.length, max: Math.max(...values) };
}

function round(value: number): string {
  return String(Math.round(value * 10) / 10);
}
