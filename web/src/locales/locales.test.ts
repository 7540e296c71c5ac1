/** The texts of all languages are whole: none missing, none left over, the same places for values, all plural forms. */

import { describe, expect, test } from "vitest";
import type { Strings, Text } from "$lib/translate";
import english from "./en.json";

const files = import.meta.glob<Strings>("./*.json", { eager: true, import: "default" });
const languages = Object.entries(files).map(([path, texts]) => ({ code: path.replace(/^\.\/|\.json$/g, ""), texts }));
const sources = import.meta.glob<string>(["../**/*.svelte", "../**/*.ts", "!../**/*.test.ts"], {
  eager: true,
  import: "default",
  query: "?raw",
});
const EN: Strings = english;

const formsOf = (text: Text): string[] => (typeof text === "string" ? [text] : Object.values(text));
const placesOf = (form: string): string[] => [...form.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? "").sort();
/** `{n}` may be said in words ("one chat"), as Arabic does for one and two. */
const withoutN = (places: string[]): string[] => [...new Set(places)].filter((place) => place !== "n");

test("the seven languages are there", () => {
  expect(languages.map((one) => one.code).sort()).toEqual(["ar", "de", "en", "es", "fr", "ja", "zh"]);
});

describe.each(languages)("$code", ({ code, texts }) => {
  test("has a text for each key of English and no other", () => {
    expect(Object.keys(texts).sort()).toEqual(Object.keys(EN).sort());
  });

  test("has no empty text and no space at an end", () => {
    const bad = Object.entries(texts).filter(([, text]) =>
      formsOf(text).some((form) => form === "" || form !== form.trim()),
    );
    expect(bad.map(([key]) => key)).toEqual([]);
  });

  test("has the same places for values as English", () => {
    const differing = Object.entries(texts).filter(([key, text]) => {
      const wanted = formsOf(EN[key] ?? "").flatMap(placesOf);
      return formsOf(text).some((form) => withoutN(placesOf(form)).join() !== withoutN(wanted).join());
    });
    expect(differing.map(([key]) => key)).toEqual([]);
  });

  test("has each plural form of its language where English has forms, and no other", () => {
    const categories = new Intl.PluralRules(code).resolvedOptions().pluralCategories.slice().sort().join();
    const wrong = Object.entries(texts).filter(([key, text]) => {
      if (typeof EN[key] === "string") return typeof text !== "string";
      return typeof text === "string" || Object.keys(text).sort().join() !== categories;
    });
    expect(wrong.map(([key]) => key)).toEqual([]);
  });

  test("counts with {n} wherever a form stands for more than one number", () => {
    const rules = new Intl.PluralRules(code);
    const silent = Object.entries(texts).filter(([, text]) => {
      if (typeof text === "string") return false;
      return Object.entries(text).some(([category, form]) => {
        const numbers = [...Array(200).keys()].filter((n) => rules.select(n) === category);
        return numbers.length > 1 && !form.includes("{n}");
      });
    });
    expect(silent.map(([key]) => key)).toEqual([]);
  });
});

describe("the keys in the sources", () => {
  const areas = new Set(Object.keys(EN).map((key) => key.split(".")[0]));
  const code = Object.values(sources).join("\n");
  const named = [...code.matchAll(/"([a-z_]+\.[a-z_0-9]+)"/g)].map((match) => match[1] ?? "");
  const patterns = [...code.matchAll(/`([a-z_]+\.(?:[a-z_0-9]|\$\{[^}]*\})+)`/g)].map(
    (match) => new RegExp(`^${(match[1] ?? "").replace(/\$\{[^}]*\}/g, "\\w+").replace(".", "\\.")}$`),
  );

  test("each has a text", () => {
    const isKey = (name: string) => areas.has(name.split(".")[0]);
    expect(named.filter((name) => isKey(name) && !(name in EN))).toEqual([]);
    expect(patterns.filter((pattern) => !Object.keys(EN).some((key) => pattern.test(key)))).toEqual([]);
  });

  test("each text is used", () => {
    const used = new Set(named);
    const unused = Object.keys(EN).filter((key) => !used.has(key) && !patterns.some((pattern) => pattern.test(key)));
    expect(unused).toEqual([]);
  });
});
