/** Who uses the page. */

import { api, onSignedOut, type Me } from "../api";

class Session {
  me = $state.raw<Me | null>(null);
  /** Set while the server could not be reached at the start. */
  failure = $state.raw<Error | null>(null);

  needsLogin = $derived(this.me !== null && (this.me.needs_setup || (this.me.needs_login && this.me.user === null)));

  /** False for the user of a machine without accounts, who has nothing to log out of and no password. */
  hasAccount = $derived((this.me?.user?.id ?? "local") !== "local");

  constructor() {
    onSignedOut(() => {
      if (this.me?.user) this.me = { ...this.me, user: null, needs_login: true };
    });
  }

  async load(): Promise<void> {
    try {
      this.me = await api.me();
      this.failure = null;
    } catch (error) {
      this.failure = error as Error;
    }
  }
}

export const session = new Session();
