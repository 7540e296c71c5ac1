/** What a paid API would have charged for the same tokens, less the electricity if its price is given. */

import type { Price, Prices, Stats } from "$lib/api";

export type Usage = { nPrompt: number; nCached: number; nCompletion: number; busyMs: number };
export type Savings = { charge: number; electricity: number | null; saved: number; kwh: number | null };

const MILLION = 1_000_000;
const WATT_MS_PER_KWH = 3_600_000_000;

/** Sum of the answers of a chat. What an answer does not state counts as 0; `n_prompt` holds the cached tokens too. */
export function usageOf(answers: Iterable<Stats | null>): Usage {
  const usage = { nPrompt: 0, nCached: 0, nCompletion: 0, busyMs: 0 };
  for (const stats of answers) {
    usage.nPrompt += stats?.n_prompt ?? 0;
    usage.nCached += stats?.n_cached ?? 0;
    usage.nCompletion += stats?.n_completion ?? 0;
    usage.busyMs += stats?.total_ms ?? 0;
  }
  return usage;
}

/** The savings in the currency of the price file. Prices are per million tokens, `watts` is drawn while answering. */
export function savings(usage: Usage, price: Price, prices: Prices): Savings {
  const nFresh = Math.max(usage.nPrompt - usage.nCached, 0);
  const charge =
    (nFresh * price.input + usage.nCached * price.cached_input + usage.nCompletion * price.output) / MILLION;
  const kwh = prices.watts === null ? null : (prices.watts * usage.busyMs) / WATT_MS_PER_KWH;
  const electricity = kwh === null || prices.price_per_kwh === null ? null : kwh * prices.price_per_kwh;
  return { charge, electricity, saved: charge - (electricity ?? 0), kwh };
}

/** The model of the price file that the reader compares with: the chosen one, else the first, else none. */
export function chosenPrice(prices: Prices, name: string | undefined): Price | null {
  return prices.models.find((model) => model.name === name) ?? prices.models[0] ?? null;
}

/** Money with as many places as it takes to show something: 0.0004 is not 0.00. */
export function formatMoney(amount: number, currency: string, locale: string): string {
  const size = Math.abs(amount);
  const places = size === 0 || size >= 0.1 ? 2 : Math.min(2 - Math.floor(Math.log10(size)), 6);
  const options = { minimumFractionDigits: Math.min(places, 2), maximumFractionDigits: places };
  try {
    return new Intl.NumberFormat(locale, { style: "currency", currency, ...options }).format(amount);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // a currency that is no code of three letters
    return `${new Intl.NumberFormat(locale, options).format(amount)} ${currency}`;
  }
}
