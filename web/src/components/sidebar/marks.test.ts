import { expect, test } from "vitest";
import { splitMarks } from "./marks";

test("hits are told from the rest, and what looks like HTML stays text", () => {
  expect(splitMarks("<b>a \u0002hit\u0003</b>\u0002two\u0003")).toEqual([
    { text: "<b>a ", isHit: false },
    { text: "hit", isHit: true },
    { text: "</b>", isHit: false },
    { text: "two", isHit: true },
  ]);
});

test("marks without a partner lose no text", () => {
  expect(
    splitMarks("a\u0003b\u0002c")
      .map((piece) => piece.text)
      .join(""),
  ).toBe("abc");
});
