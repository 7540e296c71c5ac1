/** The models that the server has. */

import { api, type Model } from "../api";
import { notices } from "./notices.svelte";

class Models {
  list = $state.raw<Model[]>([]);
  default = $state("");

  async load(): Promise<void> {
    try {
      const { models, default: name } = await api.models();
      this.list = models;
      this.default = name;
    } catch (error) {
      notices.fail(error);
    }
  }

  /** The model of this name; without a name, or where it is gone, the server's default. */
  get(name: string | null): Model | undefined {
    return this.list.find((model) => model.name === name) ?? this.list.find((model) => model.name === this.default);
  }
}

export const models = new Models();
