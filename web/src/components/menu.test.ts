import { expect, test } from "vitest";
import { nextIndex } from "./menu";

const ITEMS = ["Rename", "Pin", "Archive", "Remove"].map((label) => ({ label, run: () => undefined }));

test("arrows go round, Home and End jump", () => {
  expect(nextIndex("ArrowDown", 3, ITEMS)).toBe(0);
  expect(nextIndex("ArrowUp", 0, ITEMS)).toBe(3);
  expect(nextIndex("ArrowDown", -1, ITEMS)).toBe(0);
  expect(nextIndex("Home", 2, ITEMS)).toBe(0);
  expect(nextIndex("End", 0, ITEMS)).toBe(3);
});

test("a letter goes to the next item that begins with it, and round again", () => {
  expect(nextIndex("r", 0, ITEMS)).toBe(3);
  expect(nextIndex("R", 3, ITEMS)).toBe(0);
  expect(nextIndex("x", 0, ITEMS)).toBeNull();
});

test("other keys are not the menu's", () => {
  expect(nextIndex("Enter", 0, ITEMS)).toBeNull();
  expect(nextIndex(" ", 0, ITEMS)).toBeNull();
  expect(nextIndex("ArrowDown", 0, [])).toBeNull();
});
