/** Short messages at the page's edge. Each goes by itself after a while, unless it is held because somebody reads it. */

import { ApiError } from "../api";
import { reasonOf } from "../reason";

export type Notice = {
  id: number;
  text: string;
  kind: "info" | "error";
  action?: { label: string; run: () => void };
  /** It says that the server is away, and means nothing once it is back. */
  isOffline?: boolean;
};
type Options = Pick<Notice, "action" | "isOffline">;

export const SHOWN_MS = { info: 6000, error: 12_000 };

class Notices {
  list = $state.raw<Notice[]>([]);
  #next = 0;
  #isHeld = false;
  #timers = new Map<number, ReturnType<typeof setTimeout>>();

  add(text: string, kind: Notice["kind"] = "info", options: Options = {}): void {
    const notice: Notice = { id: this.#next++, text, kind, ...options };
    // The same failure ten times is one notice.
    this.#show([...this.list.filter((other) => other.text !== text), notice].slice(-4));
    if (!this.#isHeld) this.#count(notice);
  }

  close(id: number): void {
    this.#show(this.list.filter((notice) => notice.id !== id));
  }

  /** Keeps all that is shown for as long as somebody reads it. Let go, each has its whole time again. */
  hold(isHeld: boolean): void {
    if (isHeld === this.#isHeld) return;
    this.#isHeld = isHeld;
    if (isHeld) this.#stop(this.list);
    else for (const notice of this.list) this.#count(notice);
  }

  clear(): void {
    this.#show([]);
  }

  /** The server is back. */
  clearOffline(): void {
    this.#show(this.list.filter(({ isOffline }) => !isOffline));
  }

  /** Says why something failed. Unreachable and signed out have places of their own in the page and are left out. */
  fail(error: unknown): void {
    if (error instanceof ApiError && (error.isOffline || error.status === 401)) return;
    this.add(reasonOf(error), "error");
  }

  /** Says why what the person asked for failed, also where the server is away. */
  failHere(error: unknown): void {
    if (error instanceof ApiError && error.isOffline) this.add(reasonOf(error), "error", { isOffline: true });
    else this.fail(error);
  }

  #show(list: Notice[]): void {
    this.#stop(this.list.filter((notice) => !list.includes(notice)));
    this.list = list;
    if (list.length === 0) this.#isHeld = false;
  }

  #count({ id, kind }: Notice): void {
    this.#timers.set(
      id,
      setTimeout(() => this.close(id), SHOWN_MS[kind]),
    );
  }

  #stop(list: readonly Notice[]): void {
    for (const { id } of list) {
      clearTimeout(this.#timers.get(id));
      this.#timers.delete(id);
    }
  }
}

export const notices = new Notices();
