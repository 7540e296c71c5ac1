import { expect, test } from "vitest";
import { fuzzyFilter, fuzzyScore } from "./fuzzy";

const same = (text: string) => text;

test("letters must come in their order", () => {
  expect(fuzzyScore("nc", "New chat")).not.toBeNull();
  expect(fuzzyScore("cn", "New chat")).toBeNull();
  expect(fuzzyScore("neww", "New chat")).toBeNull();
});

test("starts of words and letters side by side come first", () => {
  expect(fuzzyFilter("set", ["Reset seats", "Open settings", "Sweet"], same)[0]).toBe("Open settings");
  expect(fuzzyFilter("dash", ["Dark as hell", "Dashboard"], same)[0]).toBe("Dashboard");
});

test("case, accents and spaces of the query do not matter", () => {
  expect(fuzzyFilter("RE SUME", ["Résumé", "Rest"], same)).toEqual(["Résumé"]);
  expect(fuzzyFilter("設定", ["新しいチャット", "設定を開く"], same)).toEqual(["設定を開く"]);
});

test("no query keeps all in their order", () => {
  expect(fuzzyFilter(" ", ["b", "a"], same)).toEqual(["b", "a"]);
});
