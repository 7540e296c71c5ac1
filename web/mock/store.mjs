/** What the mock server remembers, and how an answer grows in it. In memory only. */

import { randomBytes } from "node:crypto";
import { answerTo, THOUGHTS } from "./answers.mjs";

const TICK_MS = 10;

export const newId = () => randomBytes(9).toString("base64url");

function blank() {
  return {
    id: newId(),
    parent_id: null,
    role: "user",
    content: "",
    thoughts: null,
    tool_calls: [],
    tool_call_id: null,
    files: [],
    status: "done",
    error: null,
    model: null,
    stats: null,
    settings: null,
    is_json_valid: null,
    siblings: [],
    created_ms: Date.now(),
  };
}

export class Store {
  chats = new Map();
  messages = new Map();
  files = new Map();
  presets = new Map();
  preferences = {};
  /** Functions (event, data) of open /events streams, and per message of /messages/ID/events. */
  userStreams = new Set();
  messageStreams = new Map();
  #timers = new Map();

  addChat(fields) {
    const now = Date.now();
    const chat = {
      id: newId(),
      title: "",
      folder: null,
      is_pinned: false,
      is_archived: false,
      system: "",
      model: null,
      settings: {},
      leaf_id: null,
      created_ms: now,
      updated_ms: now,
      n_messages: 0,
      is_answering: false,
      ...fields,
    };
    this.chats.set(chat.id, chat);
    this.tell("chat", chat);
    return chat;
  }

  changeChat(chat, change) {
    Object.assign(chat, change, { updated_ms: Date.now() });
    this.tell("chat", chat);
    return chat;
  }

  deleteChat(chat) {
    for (const message of this.ofChat(chat.id)) this.deleteMessage(message);
    this.chats.delete(chat.id);
    this.tell("chat_deleted", { id: chat.id });
  }

  ofChat(chatId) {
    return [...this.messages.values()].filter((message) => message.chat_id === chatId);
  }

  /** A chat of `n` messages, to scroll through. */
  addLongChat(n) {
    const chat = this.addChat({ title: `${n} messages` });
    let parent_id = null;
    for (let i = 0; i < n; i++) {
      const content = i % 2 ? `Answer ${i}.\n\n${"- a line of it\n".repeat(i % 13)}` : `Question ${i}`;
      const message = { ...blank(), chat_id: chat.id, parent_id, role: i % 2 ? "assistant" : "user", content };
      message.siblings = [message.id];
      this.messages.set(message.id, message);
      parent_id = message.id;
    }
    return Object.assign(chat, { leaf_id: parent_id, n_messages: n });
  }

  addMessage(fields) {
    const message = { ...blank(), ...fields };
    this.messages.set(message.id, message);
    const siblings = this.ofChat(message.chat_id).filter((other) => other.parent_id === message.parent_id);
    for (const other of siblings) other.siblings = siblings.map(({ id }) => id);
    const chat = this.chats.get(message.chat_id);
    this.changeChat(chat, {
      leaf_id: message.id,
      n_messages: chat.n_messages + 1,
      title: chat.title || message.content.slice(0, 40),
    });
    this.tellStatus(message);
    return message;
  }

  deleteMessage(message) {
    this.finish(message, "stopped");
    for (const child of this.ofChat(message.chat_id)) if (child.parent_id === message.id) this.deleteMessage(child);
    this.messages.delete(message.id);
    const siblings = message.siblings.filter((id) => id !== message.id);
    for (const id of siblings) this.messages.get(id).siblings = siblings;
    this.changeChat(this.chats.get(message.chat_id), { leaf_id: siblings.at(-1) ?? message.parent_id });
  }

  /** The path from the first message to `leafId`. */
  path(leafId) {
    const path = [];
    for (let message = this.messages.get(leafId); message; message = this.messages.get(message.parent_id))
      path.push(message);
    return path.reverse();
  }

  newestLeaf(messageId) {
    const children = [...this.messages.values()].filter((message) => message.parent_id === messageId);
    return children.length === 0 ? messageId : this.newestLeaf(children.at(-1).id);
  }

  tell(event, data) {
    for (const send of this.userStreams) send(event, data);
  }

  tellStatus({ chat_id, id, status }) {
    this.tell("message", { chat_id, message_id: id, status });
  }

  tellMessage(message, event, data) {
    for (const send of this.messageStreams.get(message.id) ?? []) send(event, data);
  }

  answer(parent, own) {
    const settings = { ...this.chats.get(parent.chat_id).settings, ...own };
    const message = this.addMessage({
      chat_id: parent.chat_id,
      parent_id: parent.id,
      role: "assistant",
      status: "writing",
      model: "mock:1b",
      settings,
    });
    const isThinking = settings?.mode !== "fast";
    if (parent.content.startsWith("tool") && parent.role === "user") {
      message.tool_calls = [{ id: newId(), name: "weather", arguments: '{"place": "Tula"}' }];
      this.grow(message, isThinking ? THOUGHTS : "", "");
    } else this.grow(message, isThinking ? THOUGHTS : "", answerTo(parent.content));
    if (settings?.json_schema) message.is_json_valid = parent.content.startsWith("json");
    return message;
  }

  /** Appends `thoughts`, then `content`, word by word. */
  grow(message, thoughts, content) {
    const started = Date.now();
    const words = [
      ...(thoughts.match(/\S+\s*/g) ?? []).map((text) => ["thoughts", text]),
      ...(content.match(/\S+\s*|\s+/g) ?? []).map((text) => ["content", text]),
    ];
    let n = 0;
    this.changeChat(this.chats.get(message.chat_id), { is_answering: true });
    const timer = setInterval(() => {
      const word = words[n++];
      const total_ms = Date.now() - started;
      const n_thinking = Math.min(n, thoughts.split(" ").length);
      message.stats = {
        n_prompt: 812,
        n_cached: 640,
        n_completion: n,
        n_thinking,
        first_token_ms: 180,
        thinking_ms: n_thinking * TICK_MS,
        total_ms,
        tokens_per_s: (n / Math.max(total_ms, 1)) * 1000,
        max_context: 4096,
        seed: 7,
      };
      if (word === undefined) return this.finish(message, "done");
      const [kind, text] = word;
      const delta = { [kind]: text, at_content: message.content.length, at_thoughts: message.thoughts?.length ?? 0 };
      message[kind] = (message[kind] ?? "") + text;
      this.tellMessage(message, "delta", delta);
    }, TICK_MS);
    this.#timers.set(message.id, timer);
  }

  finish(message, status) {
    clearInterval(this.#timers.get(message.id));
    if (message.status !== "writing") return;
    message.status = status;
    this.tellMessage(message, "done", message);
    this.tellStatus(message);
    this.changeChat(this.chats.get(message.chat_id), { is_answering: false });
  }
}
