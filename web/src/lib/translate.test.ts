import { describe, expect, test } from "vitest";
import { chooseLocale, directionOf, translate } from "./translate";

describe("a text", () => {
  test("takes its values, numbers as the language writes them", () => {
    expect(translate("{n} of {what}", "de", { n: 12345, what: "Tee" })).toBe("12.345 of Tee");
  });

  test("takes the plural form of its language", () => {
    const arabic = { zero: "z", one: "o", two: "t", few: "f", many: "m", other: "x" };
    expect([0, 1, 2, 3, 11, 100].map((n) => translate(arabic, "ar", { n }))).toEqual(["z", "o", "t", "f", "m", "x"]);
    expect([0, 1, 2].map((n) => translate({ one: "o", other: "x" }, "fr", { n }))).toEqual(["o", "o", "x"]);
  });

  test("falls back to `other` where a form is missing", () => {
    expect(translate({ other: "x" }, "en", { n: 1 })).toBe("x");
  });

  test("shows a place whose value is missing, and does not read values for places", () => {
    expect(translate("{a} {b}", "en", { a: "{b}" })).toBe("{b} {b}");
  });
});

test("the language is the first wanted one that there is", () => {
  expect(chooseLocale(["pt-BR", "de-AT", "fr"], ["ar", "de", "en", "fr"])).toBe("de");
  expect(chooseLocale(["pt"], ["de", "en"])).toBe("en");
});

test("Arabic runs from right to left", () => {
  expect([directionOf("ar"), directionOf("ar-EG"), directionOf("en"), directionOf("arn")]).toEqual([
    "rtl",
    "rtl",
    "ltr",
    "ltr",
  ]);
});
