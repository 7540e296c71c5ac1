/** Short messages at the page's edge. A failure stays until it is closed, the rest goes by itself. */

import { ApiError } from "../api";

export type Notice = { id: number; text: string; kind: "info" | "error"; action?: { label: string; run: () => void } };

const SHOWN_MS = 6000;

class Notices {
  list = $state.raw<Notice[]>([]);
  #next = 0;

  add(text: string, kind: Notice["kind"] = "info", action?: Notice["action"]): void {
    const notice: Notice = { id: this.#next++, text, kind, ...(action ? { action } : {}) };
    // The same failure ten times is one notice.
    this.list = [...this.list.filter((other) => other.text !== text), notice].slice(-4);
    if (kind === "info") setTimeout(() => this.close(notice.id), SHOWN_MS);
  }

  close(id: number): void {
    this.list = this.list.filter((notice) => notice.id !== id);
  }

  /** Says why something failed. Unreachable and signed out have places of their own in the page and are left out. */
  fail(error: unknown): void {
    if (error instanceof ApiError && (error.isOffline || error.status === 401)) return;
    this.add(error instanceof Error ? error.message : String(error), "error");
  }

  /** Says why what the person asked for failed, also where the server is away. */
  failHere(error: unknown): void {
    if (error instanceof ApiError && error.isOffline) this.add(error.message, "error");
    else this.fail(error);
  }
}

export const notices = new Notices();
