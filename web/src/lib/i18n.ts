/** The interface's texts in the chosen language. A component that calls `t` is drawn again when the language changes. */

import english from "../locales/en.json";
import { locale } from "./state/locale.svelte";
import { translate, type Strings, type Values } from "./translate";

export type Key = keyof typeof english;

/** The text of `key`, with the values put in: `t("numbers.tokens", { n: 3 })`. English where a translation lacks it. */
export function t(key: Key, values?: Values): string {
  const own = locale.strings[key];
  if (own !== undefined) return translate(own, locale.code, values);
  return translate((english as Strings)[key] ?? key, "en", values);
}

export function formatNumber(value: number, options?: Intl.NumberFormatOptions): string {
  return new Intl.NumberFormat(locale.code, options).format(value);
}

export function formatDate(ms: number, options: Intl.DateTimeFormatOptions = { dateStyle: "medium" }): string {
  return new Intl.DateTimeFormat(locale.code, options).format(ms);
}

/** `1.2 MB`: decimal units, in the chosen language. */
export function formatBytes(bytes: number): string {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const power = Math.min(units.length - 1, bytes < 1000 ? 0 : Math.floor(Math.log10(bytes) / 3));
  const unit = units[power] ?? "byte";
  return formatNumber(bytes / 1000 ** power, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: 1 });
}

/** Seconds, with two digits below one and one digit below ten: `0.05s`, `3.4s`. */
export function formatSeconds(ms: number): string {
  const seconds = ms / 1000;
  return formatNumber(seconds, {
    style: "unit",
    unit: "second",
    unitDisplay: "narrow",
    maximumFractionDigits: seconds < 1 ? 2 : seconds < 10 ? 1 : 0,
  });
}
