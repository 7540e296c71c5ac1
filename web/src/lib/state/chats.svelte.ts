/** The user's chats as the sidebar lists them, kept up to date by the server's events. */

import { api, subscribe, type Chat, type ChatQuery, type Hit, type MessageChange, type Subscription } from "../api";
import { notices } from "./notices.svelte";

type Watcher = (change: MessageChange) => void;

/** Pinned first, then the last changed. */
export function byRank(a: Chat, b: Chat): number {
  return Number(b.is_pinned) - Number(a.is_pinned) || b.updated_ms - a.updated_ms;
}

class Chats {
  list = $state.raw<Chat[]>([]);
  hits = $state.raw<Hit[]>([]);
  folders = $state.raw<string[]>([]);
  query = $state.raw<ChatQuery>({});
  hasMore = $state(false);
  isLoading = $state(false);
  /** False while the stream of events is lost: the page shows that the server is away. */
  isConnected = $state(true);
  #next: string | null = null;
  #events: Subscription | null = null;
  #watchers = new Set<Watcher>();
  #removed = new Set<(chatId: string) => void>();
  #nLoads = 0;

  /** Lists what `query` asks for, from the start. A later call wins over an earlier one that is still under way. */
  async load(query: ChatQuery = this.query): Promise<void> {
    const load = ++this.#nLoads;
    this.query = query;
    this.isLoading = true;
    try {
      const page = await api.chats(query);
      if (load !== this.#nLoads) return;
      this.list = page.chats;
      this.hits = page.hits ?? [];
      this.folders = page.folders;
      this.#setNext(page.next);
    } catch (error) {
      notices.fail(error);
    } finally {
      if (load === this.#nLoads) this.isLoading = false;
    }
  }

  async loadMore(): Promise<void> {
    if (this.#next === null || this.isLoading) return;
    const load = ++this.#nLoads;
    this.isLoading = true;
    try {
      const page = await api.chats({ ...this.query, before: this.#next });
      if (load !== this.#nLoads) return;
      const known = new Set(this.list.map((chat) => chat.id));
      this.list = [...this.list, ...page.chats.filter((chat) => !known.has(chat.id))];
      this.hits = [...this.hits, ...(page.hits ?? [])];
      this.#setNext(page.next);
    } catch (error) {
      notices.fail(error);
    } finally {
      if (load === this.#nLoads) this.isLoading = false;
    }
  }

  #setNext(next: string | null): void {
    this.#next = next;
    this.hasMore = next !== null;
  }

  get(chatId: string): Chat | undefined {
    return this.list.find((chat) => chat.id === chatId);
  }

  /** Takes over a chat as the server told it: in its place in the list, or out of it where it no longer belongs. */
  put(chat: Chat): void {
    const rest = this.list.filter((other) => other.id !== chat.id);
    const isKnown = rest.length < this.list.length;
    const { query, folder, archived = false } = this.query;
    const belongs = chat.is_archived === archived && (folder === undefined || chat.folder === folder);
    // What a search finds is for the server to say.
    if (query && !isKnown) return;
    this.list = belongs ? [...rest, chat].sort(byRank) : rest;
    if (chat.folder && !this.folders.includes(chat.folder)) this.folders = [...this.folders, chat.folder].sort();
  }

  drop(chatId: string): void {
    this.list = this.list.filter((chat) => chat.id !== chatId);
    for (const listener of this.#removed) listener(chatId);
  }

  /** Tells of each new message and each change of status, in all chats. Returns what ends that. */
  watch(watcher: Watcher): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  onRemoved(listener: (chatId: string) => void): () => void {
    this.#removed.add(listener);
    return () => this.#removed.delete(listener);
  }

  /** Follows the server's events. Each connection but the first lists anew, since events may have been missed. */
  connect(): void {
    this.#events?.close();
    let isFirst = true;
    this.#events = subscribe("/events", {
      onOpen: () => {
        this.isConnected = true;
        if (!isFirst) void this.load();
        isFirst = false;
      },
      onLost: () => (this.isConnected = false),
      onEvent: ({ event, data }) => {
        if (event === "chat") this.put(JSON.parse(data) as Chat);
        else if (event === "chat_deleted") this.drop((JSON.parse(data) as { id: string }).id);
        else if (event === "message") for (const watcher of this.#watchers) watcher(JSON.parse(data) as MessageChange);
        return false;
      },
    });
  }

  disconnect(): void {
    this.#events?.close();
    this.#events = null;
  }
}

export const chats = new Chats();
