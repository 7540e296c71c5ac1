/** Work that may fail, and what people are then told. */

import { reasonOf } from "$lib/reason";

export class Attempt {
  /** Why the last work failed; empty while it has not. */
  error = $state("");

  run = async (work: () => Promise<void>): Promise<void> => {
    this.error = "";
    try {
      await work();
    } catch (caught) {
      this.error = reasonOf(caught);
    }
  };
}
