import { expect, test } from "vitest";
import { FIELDS, parseField, withoutSampling, withoutTask, withSetting, type SamplingKey } from "./sampling";

function parse(key: SamplingKey, text: string) {
  const field = FIELDS.find((one) => one.key === key);
  if (field === undefined) throw new Error(`no field ${key}`);
  return parseField(field, text);
}

test("an empty field leaves the model's default", () => {
  expect(parse("temperature", "  ")).toBeUndefined();
});

test("numbers are read with a point or a comma", () => {
  expect([parse("temperature", "0.7"), parse("temperature", "0,7"), parse("min_p", ".05")]).toEqual([0.7, 0.7, 0.05]);
});

test.each([
  ["temperature", "-0.1"],
  ["temperature", "9"],
  ["temperature", "warm"],
  ["top_p", "0"],
  ["top_p", "1.1"],
  ["top_k", "2.5"],
  ["max_tokens", "0"],
  ["repetition_penalty", "0"],
  ["presence_penalty", "-2.1"],
  ["seed", "1e300"],
  ["seed", "9007199254740993"],
  ["temperature", "0x10"],
] as const)("%s of %s is refused, as the engine would", (key, text) => {
  expect(parse(key, text)).toBe("bad");
});

test("zero is a value where it has a meaning", () => {
  expect([parse("temperature", "0"), parse("top_k", "0"), parse("seed", "0"), parse("thinking_budget", "0")]).toEqual([
    0, 0, 0, 0,
  ]);
});

test("a setting is put in or taken out, the others stay and the old object too", () => {
  const old = { temperature: 1, seed: 3 };
  expect(withSetting(old, "seed", undefined)).toEqual({ temperature: 1 });
  expect(withSetting(old, "top_k", 0)).toEqual({ temperature: 1, seed: 3, top_k: 0 });
  expect(old).toEqual({ temperature: 1, seed: 3 });
});

test("a preset takes how to answer, a reset leaves what to answer with", () => {
  const settings = { mode: "fast", temperature: 1, seed: 3, json_schema: { type: "object" }, tools: [{}] } as const;
  const chat = { ...settings, tools: [...settings.tools] };
  expect(withoutTask(chat)).toEqual({ mode: "fast", temperature: 1, seed: 3 });
  expect(withoutSampling(chat)).toEqual({ mode: "fast", json_schema: { type: "object" }, tools: [{}] });
});
