/** The sidebar's chats: loaded page by page, kept fresh by the event stream. The server is an argument. */

import type { Chat, ChatPage, Hit } from "$lib/api";
import { compareChats } from "../groups";

export type Filter = { query: string; folder: string | null; isArchived: boolean };
export type LoadPage = (filter: Filter, before: string | null) => Promise<ChatPage>;

export const ALL: Filter = { query: "", folder: null, isArchived: false };

/** `chats` with `chat` in its place, or without it where `isWanted` is false. Order as in `compareChats`. */
export function withChat(chats: readonly Chat[], chat: Chat, isWanted: boolean): Chat[] {
  const others = chats.filter((one) => one.id !== chat.id);
  return isWanted ? [...others, chat].sort(compareChats) : others;
}

export class ChatList {
  chats = $state.raw<readonly Chat[]>([]);
  hits = $state.raw<readonly Hit[]>([]);
  folders = $state.raw<readonly string[]>([]);
  filter = $state.raw<Filter>(ALL);
  isLoading = $state(false);
  /** Whether a first page was had, so that an empty list means that there is nothing. */
  isLoaded = $state(false);
  error = $state<unknown>(null);
  #next = $state<string | null>(null);
  #load: LoadPage;
  #turn = 0; // answers to an earlier filter come too late

  constructor(load: LoadPage) {
    this.#load = load;
  }

  get hasMore(): boolean {
    return this.#next !== null;
  }

  /** Load the first page of `filter`; what is shown stays until it is there. */
  async show(filter: Filter): Promise<void> {
    this.filter = filter;
    await this.#page(null);
  }

  /** The first page again, after the stream of events was cut. */
  async reload(): Promise<void> {
    await this.#page(null);
  }

  async more(): Promise<void> {
    if (this.#next !== null && !this.isLoading) await this.#page(this.#next);
  }

  /** A chat that is new or has changed. */
  put(chat: Chat): void {
    if (chat.folder !== null && !this.folders.includes(chat.folder))
      this.folders = [...this.folders, chat.folder].sort();
    this.chats = withChat(this.chats, chat, this.#isWanted(chat));
  }

  drop(id: string): void {
    this.chats = this.chats.filter((chat) => chat.id !== id);
    this.hits = this.hits.filter((hit) => hit.chat_id !== id);
  }

  async #page(before: string | null): Promise<void> {
    const turn = ++this.#turn;
    this.isLoading = true;
    try {
      const page = await this.#load(this.filter, before);
      if (turn !== this.#turn) return;
      const old = before === null ? [] : this.chats.filter((chat) => page.chats.every((one) => one.id !== chat.id));
      this.chats = [...old, ...page.chats].sort(compareChats);
      this.hits = [...(before === null ? [] : this.hits), ...(page.hits ?? [])];
      this.folders = page.folders;
      this.#next = page.next;
      this.error = null;
      this.isLoaded = true;
    } catch (error) {
      if (turn === this.#turn) this.error = error;
    } finally {
      if (turn === this.#turn) this.isLoading = false;
    }
  }

  #isWanted(chat: Chat): boolean {
    const { query, folder, isArchived } = this.filter;
    if (folder !== null && chat.folder !== folder) return false;
    const isShown = this.chats.some((one) => one.id === chat.id);
    if (query !== "") return isShown; // whether it fits the search is for the server to say
    if (chat.is_archived !== isArchived) return false;
    const last = this.chats.at(-1);
    return isShown || this.#next === null || last === undefined || compareChats(chat, last) < 0; // else on a later page
  }
}
