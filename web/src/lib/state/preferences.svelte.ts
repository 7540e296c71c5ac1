/** What a user chose about the app. Kept by the server; language and theme also by the browser, for the time before a login. */

import { api, type Preferences, type Theme } from "../api";
import { locale } from "./locale.svelte";
import { notices } from "./notices.svelte";

const STORE = "samovar.look";

function stored(): Preferences {
  try {
    return JSON.parse(localStorage.getItem(STORE) ?? "{}") as Preferences;
  } catch {
    return {};
  }
}

class PreferencesState {
  value = $state.raw<Preferences>(stored());
  theme = $derived<Theme>(this.value.theme ?? "system");

  /** Shows language and theme as chosen. Call at the start and after each change. */
  async apply(): Promise<void> {
    const { locale: chosen, theme } = this.value;
    document.documentElement.dataset["theme"] = theme ?? "system";
    localStorage.setItem(STORE, JSON.stringify({ locale: chosen, theme }));
    await locale.choose(chosen ? [chosen, ...navigator.languages] : navigator.languages);
  }

  async load(): Promise<void> {
    try {
      const kept = await api.preferences();
      this.value = { ...this.value, ...kept };
      await this.apply();
    } catch (error) {
      notices.fail(error);
    }
  }

  async change(change: Preferences): Promise<void> {
    this.value = { ...this.value, ...change };
    await this.apply();
    try {
      await api.setPreferences(this.value);
    } catch (error) {
      notices.fail(error);
    }
  }
}

export const preferences = new PreferencesState();
