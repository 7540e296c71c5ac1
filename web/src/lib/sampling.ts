/** The sampling values that a reader can set, with the bounds that the engine takes. */

import type { Settings } from "$lib/api";

export type SamplingKey =
  | "temperature"
  | "top_p"
  | "top_k"
  | "min_p"
  | "presence_penalty"
  | "repetition_penalty"
  | "thinking_budget"
  | "max_tokens"
  | "seed";

export type Field = { key: SamplingKey; min: number; max: number; step: number; isWhole: boolean };

const whole = (key: SamplingKey, min: number, max = 2 ** 31): Field => ({ key, min, max, step: 1, isWhole: true });
const real = (key: SamplingKey, min: number, max: number, step: number): Field => ({
  key,
  min,
  max,
  step,
  isWhole: false,
});

// The engine takes temperatures up to 100; above OpenAI's bound of 2 a model writes noise.
export const FIELDS: readonly Field[] = [
  real("temperature", 0, 2, 0.1),
  real("top_p", 0, 1, 0.05),
  whole("top_k", 0),
  real("min_p", 0, 1, 0.01),
  real("presence_penalty", -2, 2, 0.1),
  real("repetition_penalty", 0, 100, 0.05),
  whole("thinking_budget", 0),
  whole("max_tokens", 1),
  whole("seed", 0, Number.MAX_SAFE_INTEGER),
];

const ABOVE_ZERO: readonly SamplingKey[] = ["top_p", "repetition_penalty"];

/** The number that `text` states, undefined where it is empty, "bad" where the engine would refuse it. A comma counts as a point. */
export function parseField(field: Field, text: string): number | undefined | "bad" {
  const cleaned = text.trim().replace(",", ".");
  if (cleaned === "") return undefined;
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(cleaned)) return "bad";
  const value = Number(cleaned);
  if (value < field.min || value > field.max || (field.isWhole && !Number.isInteger(value))) return "bad";
  return value === 0 && ABOVE_ZERO.includes(field.key) ? "bad" : value;
}

/** `settings` with one value set, or without it where `value` is undefined: the model's default holds then. */
export function withSetting<K extends keyof Settings>(
  settings: Settings,
  key: K,
  value: Settings[K] | undefined,
): Settings {
  const others: Settings = Object.fromEntries(Object.entries(settings).filter(([name]) => name !== key));
  return value === undefined ? others : { ...others, [key]: value };
}

/** What a preset keeps of a chat's settings: how to answer. The schema and the tools are of the task, and stay with the chat. */
export function withoutTask(settings: Settings): Settings {
  return withSetting(withSetting(settings, "json_schema", undefined), "tools", undefined);
}

/** `settings` with the model's own sampling: what else is set, such as the mode or a schema, stays. */
export function withoutSampling(settings: Settings): Settings {
  return FIELDS.reduce<Settings>((rest, field) => withSetting(rest, field.key, undefined), settings);
}
