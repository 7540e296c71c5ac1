/** The user's chats as the sidebar lists them, kept up to date by the server's events. */

import { api, subscribe, type Chat, type ChatChange, type MessageChange, type Subscription } from "../api";
import { ChatList } from "./chat_list.svelte";
import { notices } from "./notices.svelte";

type Watcher = (change: MessageChange) => void;

class Chats {
  readonly list = new ChatList(({ query, folder, isArchived }, before) =>
    api.chats({
      // A search is over all chats where it is not over the archive alone.
      ...((isArchived || query === "") && { archived: isArchived }),
      ...(query !== "" && { query }),
      ...(folder !== null && { folder }),
      ...(before !== null && { before }),
    }),
  );
  /** False while the stream of events is lost: the page shows that the server is away. */
  isConnected = $state(true);
  #events: Subscription | null = null;
  #watchers = new Set<Watcher>();
  #removed = new Set<(chatId: string) => void>();

  get(chatId: string): Chat | undefined {
    return this.list.chats.find((chat) => chat.id === chatId);
  }

  /** Takes over a chat as the server told it. */
  put(chat: Chat): void {
    this.list.put(chat);
  }

  drop(chatId: string): void {
    this.list.drop(chatId);
    for (const listener of this.#removed) listener(chatId);
  }

  /** Shows the change at once and has the server make it; where that fails the chat is as before, and a notice says why. */
  async change(chat: Chat, change: ChatChange): Promise<void> {
    this.put({ ...chat, ...change });
    try {
      this.put(await api.changeChat(chat.id, change));
    } catch (error) {
      this.put(chat);
      notices.fail(error);
    }
  }

  async remove(chatId: string): Promise<void> {
    try {
      await api.deleteChat(chatId);
      this.drop(chatId);
    } catch (error) {
      notices.fail(error);
    }
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

  /** Follows the server's events. Each connection lists anew, since events may have been missed before it. */
  connect(): void {
    this.#events?.close();
    this.#events = subscribe("/events", {
      onOpen: () => {
        this.isConnected = true;
        notices.clearOffline();
        void this.list.reload();
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
