/** The chat that is open: the path through its tree that is shown, and all that can be done with it. */

import { api, type Chat, type ChatChange, type Message, type MessageChange, type Settings, type Status } from "../api";
import { joinPage } from "../fold";
import { chats } from "./chats.svelte";
import { LiveMessage } from "./live_message.svelte";
import { notices } from "./notices.svelte";
import { chatHash, router } from "./route.svelte";

const PAGE = 100;
const REFRESH_MS = 150;

/** A chat that is not made yet: it is with the first message. */
export function draftChat(): Chat {
  const fields = {
    title: "",
    folder: null,
    is_pinned: false,
    is_archived: false,
    system: "",
    model: null,
    settings: {},
  };
  return { id: "", ...fields, leaf_id: null, created_ms: 0, updated_ms: 0, n_messages: 0, is_answering: false };
}

export class Conversation {
  chat = $state.raw<Chat>(draftChat());
  rows = $state.raw<LiveMessage[]>([]);
  hasMore = $state(false);
  isLoading = $state(false);
  isMissing = $state(false);
  /** The answer that ended last while the page looked on: for screen readers. */
  finished = $state.raw<Message | null>(null);

  /** The message that is being written anew. */
  edited = $state.raw<{ id: string; isWithoutFiles: boolean } | null>(null);

  last = $derived(this.rows.at(-1)?.value ?? null);
  writing = $derived(this.rows.find((row) => row.value.status === "writing"));
  /** The calls of tools that have their result on this path. */
  answeredCalls = $derived(new Set(this.rows.map((row) => row.value.tool_call_id).filter((id) => id !== null)));

  #nOpens = 0;
  #refresh: ReturnType<typeof setTimeout> | undefined;
  /** What the server told of messages and this page did not know at once. */
  #told = new Map<string, Status>();
  #saved: Promise<unknown> = Promise.resolve();
  #unwatch: () => void;

  constructor() {
    this.#unwatch = chats.watch((change) => this.#onChange(change));
  }

  destroy(): void {
    this.#unwatch();
    this.#clear();
  }

  #clear(): void {
    clearTimeout(this.#refresh);
    this.#told.clear();
    for (const row of this.rows) row.unfollow();
    this.rows = [];
    this.hasMore = this.isMissing = false;
    this.edited = null;
  }

  edit(id: string, isWithoutFiles = false): void {
    this.edited = { id, isWithoutFiles };
  }

  endEdit(): void {
    this.edited = null;
  }

  /** Shows a chat, or an empty one. With a message, the branch that it is on. */
  async open(chatId: string | null, messageId: string | null = null): Promise<void> {
    if (chatId !== null && chatId === this.chat.id && messageId === null) return;
    const open = ++this.#nOpens;
    this.#clear();
    this.chat = draftChat();
    if (chatId === null) return;
    this.isLoading = true;
    try {
      if (messageId !== null) await api.walk(chatId, messageId);
      const [chat, page] = await Promise.all([api.chat(chatId), api.messages(chatId, { limit: PAGE })]);
      if (open !== this.#nOpens) return;
      this.chat = chat;
      this.#show(page.messages);
      this.hasMore = page.has_more;
      if (messageId !== null) await this.#loadUntil(messageId);
    } catch (error) {
      if (open !== this.#nOpens) return;
      this.isMissing = true;
      notices.fail(error);
    } finally {
      if (open === this.#nOpens) this.isLoading = false;
    }
  }

  async #loadUntil(messageId: string): Promise<void> {
    while (this.hasMore && !this.rows.some((row) => row.id === messageId)) if (!(await this.#loadPage())) return;
  }

  async loadOlder(): Promise<void> {
    if (!this.hasMore || this.isLoading) return;
    this.isLoading = true;
    await this.#loadPage();
    this.isLoading = false;
  }

  async #loadPage(): Promise<boolean> {
    const [open, first, leaf] = [this.#nOpens, this.rows[0], this.rows.at(-1)];
    if (first === undefined || leaf === undefined) return false;
    try {
      const page = await api.messages(this.chat.id, { leaf: leaf.id, before: first.id, limit: PAGE });
      if (open !== this.#nOpens || this.rows[0] !== first) return false;
      this.rows = [...page.messages.map((message) => this.#row(message)), ...this.rows];
      this.hasMore = page.has_more;
      return page.messages.length > 0;
    } catch (error) {
      notices.fail(error);
      return false;
    }
  }

  /** Reads the newest part of the path again and keeps what was loaded before it. */
  async refresh(): Promise<void> {
    const [open, chatId] = [this.#nOpens, this.chat.id];
    if (chatId === "") return;
    try {
      const [chat, page] = await Promise.all([api.chat(chatId), api.messages(chatId, { limit: PAGE })]);
      if (open !== this.#nOpens) return;
      this.chat = chat;
      if (!this.#show(page.messages)) this.hasMore = page.has_more;
    } catch (error) {
      notices.fail(error);
    }
  }

  /** Makes `messages` the end of the path. Returns whether older rows were kept before them. */
  #show(messages: Message[]): boolean {
    const { rows, isJoined } = joinPage(
      this.rows,
      messages.map((message) => this.#row(message)),
    );
    for (const row of this.rows) if (!rows.includes(row)) row.unfollow();
    this.rows = rows;
    for (const row of rows) this.#follow(row);
    return isJoined;
  }

  /** The row of a message: the one that is there, with what the server told of it. */
  #row(message: Message): LiveMessage {
    const known = this.rows.find((row) => row.id === message.id);
    if (known === undefined) return new LiveMessage(message);
    if (known.value.status !== "writing" || message.status !== "writing") known.set(message);
    return known;
  }

  #follow(row: LiveMessage): void {
    if (row.value.status !== "writing") return;
    row.follow(
      (message) => (this.finished = message),
      () => void this.refresh(),
    );
  }

  #onChange({ chat_id, message_id, status }: MessageChange): void {
    if (chat_id !== this.chat.id) return;
    this.#told.set(message_id, status);
    if (this.#isBehind()) this.#later();
  }

  #isBehind(): boolean {
    const statusOf = new Map(this.rows.map(({ id, value }) => [id, value.status]));
    return [...this.#told].some(([id, status]) => statusOf.get(id) !== status);
  }

  /** Soon, and once for many changes; not at all where they were this page's own and are known by then. */
  #later(): void {
    clearTimeout(this.#refresh);
    this.#refresh = setTimeout(() => {
      const isBehind = this.#isBehind();
      this.#told.clear();
      if (isBehind) void this.refresh();
    }, REFRESH_MS);
  }

  /** Changes the chat; one that is not made yet is changed here alone. */
  async change(change: ChatChange): Promise<void> {
    this.chat = { ...this.chat, ...change };
    if (this.chat.id === "") return;
    const saved = api.changeChat(this.chat.id, change);
    this.#saved = saved.catch(() => undefined);
    try {
      await saved;
    } catch (error) {
      notices.fail(error);
    }
  }

  changeSettings(change: { [K in keyof Settings]?: Settings[K] | undefined }): Promise<void> {
    const merged = Object.entries({ ...this.chat.settings, ...change }).filter(([, value]) => value !== undefined);
    return this.change({ settings: Object.fromEntries(merged) as Settings });
  }

  /**
   * Puts `messages` behind the row of `parentId` (all behind it leaves the view) and follows the answer among them. Nothing where
   * another chat was opened meanwhile: then they are there when this one is opened again.
   */
  #append(chatId: string, parentId: string | null, messages: (Message | null)[]): void {
    if (chatId !== this.chat.id) return;
    const at = parentId === null ? -1 : this.rows.findIndex(({ id }) => id === parentId);
    for (const row of this.rows.slice(at + 1)) row.unfollow();
    const added = messages.filter((message) => message !== null).map((message) => new LiveMessage(message));
    this.rows = [...this.rows.slice(0, at + 1), ...added];
    for (const row of added) this.#follow(row);
  }

  /** Sends a message behind `parentId` and asks for an answer. Returns the chat's id, or null where that failed: nothing is lost then. */
  async send(
    content: string,
    files: string[],
    parentId: string | null = this.last?.id ?? null,
  ): Promise<string | null> {
    let chatId = this.chat.id;
    const isSent = await this.#try(async () => {
      await this.#saved;
      if (chatId === "") chatId = await this.#begin(content, files);
      else {
        const { message, answer } = await api.send(chatId, { parent_id: parentId, content, files });
        this.#append(chatId, parentId, [message, answer]);
      }
    });
    return isSent ? chatId : null;
  }

  /** Makes the chat with its first message. Where that cannot be sent the chat goes again, and the page stays as it is. */
  async #begin(content: string, files: string[]): Promise<string> {
    const open = this.#nOpens;
    const { folder, system, model, settings } = this.chat;
    const made = await api.addChat({ folder, system, model, settings });
    try {
      const { message, answer } = await api.send(made.id, { parent_id: null, content, files });
      if (open === this.#nOpens) {
        this.chat = made;
        router.replace(chatHash(made.id));
        this.#append(made.id, null, [message, answer]);
      }
      return made.id;
    } catch (error) {
      await api.deleteChat(made.id).catch(() => undefined);
      throw error;
    }
  }

  /** Gives what a tool answered. The model goes on once every call has its result. */
  giveResult(callId: string, content: string, isLast: boolean): Promise<boolean> {
    const [chatId, parentId] = [this.chat.id, this.last?.id ?? null];
    return this.#try(async () => {
      await this.#saved;
      const result = { parent_id: parentId, content, role: "tool", tool_call_id: callId, answer: isLast } as const;
      const { message, answer } = await api.send(chatId, result);
      this.#append(chatId, parentId, [message, answer]);
    });
  }

  /** Results are given where the path ends: behind the calls themselves or behind other results of the same answer. */
  canGiveResult(messageId: string): boolean {
    const at = this.rows.findIndex(({ id }) => id === messageId);
    return this.rows.slice(at + 1).every((row) => row.value.role === "tool");
  }

  /** Makes another answer beside this one; of a question or a result that has none, the first. */
  regenerate(message: Message): Promise<boolean> {
    const parentId = message.role === "assistant" ? message.parent_id : message.id;
    return this.#try(async () => {
      await this.#saved;
      const { answer } = await api.regenerate(message.id);
      this.#append(message.chat_id, parentId, [answer]);
    });
  }

  continueAnswer(message: Message): Promise<boolean> {
    return this.#try(async () => {
      const { answer } = await api.continueAnswer(message.id);
      const row = this.rows.find(({ id }) => id === answer.id);
      row?.set(answer);
      if (row) this.#follow(row);
    });
  }

  stop(): Promise<boolean> {
    return this.#try(async () => this.writing?.stop());
  }

  /** Goes to another version of a message: to the newest end of its branch. */
  walk(messageId: string): Promise<boolean> {
    return this.#try(async () => {
      await api.walk(this.chat.id, messageId);
      await this.refresh();
    });
  }

  /** Deletes a message and all that follows from it. */
  remove(messageId: string): Promise<boolean> {
    return this.#try(async () => {
      await api.deleteMessage(messageId);
      await this.refresh();
    });
  }

  async #try(work: () => Promise<unknown>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      notices.failHere(error);
      return false;
    }
  }
}
