/** Texts with places for values, and their plural forms. Pure: the chosen language is state, and lives in i18n.ts. */

/** A text, or its plural forms by the categories of Intl.PluralRules. `{name}` is replaced by a value. */
export type Text = string | Partial<Record<Intl.LDMLPluralRule, string>>;
export type Strings = Record<string, Text>;
export type Values = Record<string, string | number>;

/** The text for a key in `locale`. `n` picks the plural form and is written as that language writes numbers. */
export function translate(text: Text, locale: string, values: Values = {}): string {
  const form = typeof text === "string" ? text : pluralForm(text, locale, values["n"]);
  return form.replace(/\{(\w+)\}/g, (place, name: string) => {
    const value = values[name];
    if (value === undefined) return place;
    return typeof value === "number" ? new Intl.NumberFormat(locale).format(value) : value;
  });
}

function pluralForm(forms: Exclude<Text, string>, locale: string, n: string | number | undefined): string {
  const category = new Intl.PluralRules(locale).select(Number(n ?? 0));
  return forms[category] ?? forms.other ?? "";
}

export function directionOf(locale: string): "ltr" | "rtl" {
  return /^(ar|fa|he|ur)\b/.test(locale) ? "rtl" : "ltr";
}

/** The first of the `wanted` languages that there is, by its whole name and then by its language alone; else English. */
export function chooseLocale(wanted: readonly string[], available: readonly string[]): string {
  for (const tag of wanted) {
    const language = tag.split("-")[0] ?? tag;
    const found = available.find((name) => name === tag) ?? available.find((name) => name === language);
    if (found !== undefined) return found;
  }
  return "en";
}
