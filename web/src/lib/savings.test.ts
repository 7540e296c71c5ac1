import { describe, expect, test } from "vitest";
import { chosenPrice, formatMoney, savings, usageOf } from "./savings";
import type { Prices, Stats } from "$lib/api";

const PRICES: Prices = {
  date: "2026-01-01",
  currency: "USD",
  models: [
    { name: "small", input: 1, cached_input: 0.1, output: 4 },
    { name: "large", input: 10, cached_input: 1, output: 40 },
  ],
  watts: 60,
  price_per_kwh: 0.3,
};
const SMALL = { name: "small", input: 1, cached_input: 0.1, output: 4 };

const stats = (some: Partial<Stats>): Stats => ({
  n_prompt: null,
  n_cached: null,
  n_completion: null,
  n_thinking: null,
  first_token_ms: null,
  thinking_ms: null,
  total_ms: null,
  tokens_per_s: null,
  max_context: null,
  seed: null,
  ...some,
});

describe("savings", () => {
  test("cached tokens are part of the prompt and cost their own price", () => {
    const usage = { nPrompt: 1_000_000, nCached: 400_000, nCompletion: 500_000, busyMs: 0 };
    expect(savings(usage, SMALL, PRICES).charge).toBeCloseTo(0.6 + 0.04 + 2, 9);
  });

  test("electricity is taken off: 60 W for an hour are 0.06 kWh", () => {
    const found = savings({ nPrompt: 0, nCached: 0, nCompletion: 1_000_000, busyMs: 3_600_000 }, SMALL, PRICES);
    expect(found.kwh).toBeCloseTo(0.06, 9);
    expect(found.saved).toBeCloseTo(4 - 0.018, 9);
  });

  test("without a price of electricity nothing is taken off", () => {
    const found = savings({ nPrompt: 0, nCached: 0, nCompletion: 1_000_000, busyMs: 3_600_000 }, SMALL, {
      ...PRICES,
      price_per_kwh: null,
    });
    expect([found.electricity, found.saved]).toEqual([null, 4]);
  });

  test("answers without figures count as nothing", () => {
    const usage = usageOf([
      null,
      stats({ n_prompt: 5 }),
      stats({ n_prompt: 2, n_cached: 1, n_completion: 3, total_ms: 10 }),
    ]);
    expect(usage).toEqual({ nPrompt: 7, nCached: 1, nCompletion: 3, busyMs: 10 });
  });

  test("a model that is no longer in the price file falls back to the first", () => {
    expect(chosenPrice(PRICES, "large")?.name).toBe("large");
    expect(chosenPrice(PRICES, "gone")?.name).toBe("small");
    expect(chosenPrice({ ...PRICES, models: [] }, "large")).toBeNull();
  });
});

test("small sums are shown with the places that they need", () => {
  expect(formatMoney(12.3456, "USD", "en")).toBe("$12.35");
  expect(formatMoney(0.000432, "USD", "en")).toBe("$0.000432");
  expect(formatMoney(0, "USD", "en")).toBe("$0.00");
  expect(formatMoney(1.5, "credits", "en")).toBe("1.50 credits");
});
