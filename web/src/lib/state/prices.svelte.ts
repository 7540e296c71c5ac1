/** The price file of the server, fetched once when something first needs it. */

import { api, type Prices } from "../api";
import { notices } from "./notices.svelte";

class PricesState {
  /** Null until it was loaded. */
  value = $state.raw<Prices | null>(null);
  #load: Promise<void> | null = null;

  load(): Promise<void> {
    this.#load ??= this.#fetch();
    return this.#load;
  }

  /** Raises what the server refuses. */
  async save(prices: Prices): Promise<void> {
    this.value = await api.setPrices(prices);
  }

  async #fetch(): Promise<void> {
    try {
      this.value = await api.prices();
    } catch (error) {
      this.#load = null;
      notices.fail(error);
    }
  }
}

export const prices = new PricesState();
