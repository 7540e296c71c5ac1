import { describe, expect, test } from "vitest";
import { VirtualRows } from "./virtual_rows";

function rowsOf(n: number, height = 100): VirtualRows {
  const rows = new VirtualRows();
  rows.setRows(
    Array.from({ length: n }, (_, i) => `r${i}`),
    () => height,
  );
  return rows;
}

describe("the window of a long list", () => {
  test("holds what meets the viewport and its margin, and no more", () => {
    expect(rowsOf(2000).window(10_000, 800, 200)).toEqual({ first: 98, end: 111, before: 9800, after: 188_900 });
  });

  test("has the whole height at every place", () => {
    const rows = rowsOf(2000);
    for (let i = 0; i < 2000; i += 3) rows.measure(`r${i}`, 37 + (i % 400));
    for (let top = -500; top < rows.totalHeight + 500; top += 997) {
      const { first, end, before, after } = rows.window(top, 800, 800);
      expect(before + (rows.topOf(end) - rows.topOf(first)) + after).toBeCloseTo(rows.totalHeight);
      expect(end - first).toBeLessThan(400);
    }
  });

  test("of no rows is empty", () => {
    expect(rowsOf(0).window(0, 800, 800)).toEqual({ first: 0, end: 0, before: 0, after: 0 });
  });

  test("of a list shorter than the viewport is all of it", () => {
    expect(rowsOf(3).window(0, 800, 800)).toEqual({ first: 0, end: 3, before: 0, after: 0 });
  });
});

describe("what is being read stays in its place", () => {
  test("while older rows come before it", () => {
    const rows = rowsOf(10);
    const anchor = rows.anchorAt(250);
    rows.setRows(["x", "y", ...Array.from({ length: 10 }, (_, i) => `r${i}`)], () => 100);
    expect(anchor && rows.topFor(anchor)).toBe(450);
  });

  test("while rows above it turn out higher than estimated", () => {
    const rows = rowsOf(10);
    const anchor = rows.anchorAt(450);
    rows.measure("r1", 180);
    expect(anchor && rows.topFor(anchor)).toBe(530);
  });

  test("and is not moved by rows below it", () => {
    const rows = rowsOf(10);
    const anchor = rows.anchorAt(450);
    rows.measure("r8", 900);
    expect(anchor && rows.topFor(anchor)).toBe(450);
  });

  test("unless it is gone", () => {
    const rows = rowsOf(3);
    const anchor = rows.anchorAt(50);
    rows.setRows(["r1", "r2"], () => 100);
    expect(anchor && rows.topFor(anchor)).toBeNull();
  });
});

test("a height that was measured before is no change", () => {
  const rows = rowsOf(3);
  expect(rows.measure("r0", 80)).toBe(true);
  expect(rows.measure("r0", 80)).toBe(false);
});
