/** What can be done by name or by key. Views add theirs while they are shown; the command palette lists them all. */

import { untrack } from "svelte";
import type { Key } from "../i18n";

export type Command = {
  id: string;
  label: Key;
  /** `mod` is Ctrl, and Command on a Mac: `mod+k`, `mod+shift+o`, `escape`. */
  keys?: string;
  /** Other keys that do the same. */
  otherKeys?: string;
  run: () => void;
  /** False hides it from the palette and turns its keys off; asked with the keys where they were pressed. */
  isOffered?: (keys?: string) => boolean;
};

class Commands {
  list = $state.raw<Command[]>([]);

  /** Adds commands and returns what takes them away again, so that it fits `$effect`. */
  add(commands: Command[]): () => void {
    this.list = [...untrack(() => this.list), ...commands];
    return () => (this.list = untrack(() => this.list).filter((command) => !commands.includes(command)));
  }
}

export const commands = new Commands();
