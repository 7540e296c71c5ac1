import { flushSync, mount, unmount } from "svelte";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Chat, ChatPage } from "$lib/api";
import { ChatList } from "$lib/state/chat_list.svelte";
import { router } from "$lib/state/route.svelte";

window.matchMedia ??= () => ({ matches: true, addEventListener: () => undefined }) as unknown as MediaQueryList;
const { default: Search } = await import("./Search.svelte");
const { default: ChatGroups } = await import("./ChatGroups.svelte");

const chat = (id: string, updated_ms: number, is_archived = false) =>
  ({ id, title: id, updated_ms, is_archived, is_pinned: false, folder: null }) as Chat;
const PAGE: ChatPage = {
  chats: [chat("new", 2, true), chat("old", 1)],
  hits: [
    { chat_id: "new", message_id: "m1", snippet: "one" },
    { chat_id: "new", message_id: "m2", snippet: "two" },
    { chat_id: "old", message_id: null, snippet: "three" },
  ],
  next: null,
  folders: [],
};

let list: ChatList;
let parts: object[];

beforeEach(() => {
  router.go("#/");
  list = new ChatList(({ query }) => Promise.resolve(query === "word" ? PAGE : { ...PAGE, chats: [], hits: [] }));
  const none = () => undefined;
  const groups = { list, currentId: null, onchange: none, onask: none, onopen: none };
  const target = document.body;
  parts = [mount(Search, { target, props: { list } }), mount(ChatGroups, { target, props: groups })];
});

afterEach(() => parts.forEach((part) => void unmount(part)));

async function enter(text: string): Promise<void> {
  const box = document.querySelector("input")!;
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
  box.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  await vi.waitFor(() => expect(list.filter.query).toBe(text));
  await new Promise((done) => setTimeout(done));
  flushSync();
}

test("Enter opens the first hit at its message, without waiting for the search to begin by itself", async () => {
  await enter("word");
  expect(location.hash).toBe("#/c/new?m=m1");
});

test("Enter without a hit stays where it is", async () => {
  await enter("nothing");
  expect(location.hash).toBe("#/");
});

test("each hit of a chat is a link to its message, and an archived chat says so", async () => {
  await enter("word");
  const links = [...document.querySelectorAll<HTMLAnchorElement>("a[data-chat-link]")];
  expect(links.map((link) => link.getAttribute("href"))).toEqual(["#/c/new?m=m1", "#/c/new?m=m2", "#/c/old"]);
  expect(links.map((link) => link.textContent.includes("Archive"))).toEqual([true, false, false]);
});
