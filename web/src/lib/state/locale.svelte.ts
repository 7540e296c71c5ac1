/** The chosen language: its strings are fetched when it is chosen, and the page's `lang` and `dir` follow it. */

import { chooseLocale, directionOf, type Strings } from "../translate";

const files = import.meta.glob<{ default: Strings }>(["../../locales/*.json", "!../../locales/en.json"]);
const nameOf = (path: string) => path.replace(/^.*\/|\.json$/g, "");

export const LOCALES: readonly string[] = ["en", ...Object.keys(files).map(nameOf)].sort();

class Locale {
  code = $state("en");
  /** Empty for English, whose texts are always there. */
  strings = $state.raw<Strings>({});
  direction = $derived(directionOf(this.code));

  /** Takes the first language of `wanted` that there is. */
  async choose(wanted: readonly string[]): Promise<void> {
    const code = chooseLocale(wanted, LOCALES);
    const load = Object.entries(files).find(([path]) => nameOf(path) === code)?.[1];
    this.strings = load === undefined ? {} : (await load()).default;
    this.code = code;
    document.documentElement.lang = code;
    document.documentElement.dir = this.direction;
  }
}

export const locale = new Locale();
