import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Chat } from "$lib/api";
import { chats } from "./chats.svelte";
import { notices } from "./notices.svelte";

const CHAT: Chat = {
  id: "a",
  title: "Tea",
  folder: null,
  is_pinned: false,
  is_archived: false,
  system: "",
  model: null,
  settings: {},
  leaf_id: null,
  created_ms: 0,
  updated_ms: 1,
  n_messages: 1,
  is_answering: false,
};
let answers: (() => Response)[] = [];
const refused = () => Response.json({ error: { code: "busy", message: "The database is locked." } }, { status: 503 });

beforeEach(() => {
  answers = [];
  vi.stubGlobal("fetch", () => Promise.resolve(answers.shift()?.() ?? refused()));
  chats.put(CHAT);
});

afterEach(() => {
  vi.unstubAllGlobals();
  chats.drop("a");
  for (const notice of notices.list) notices.close(notice.id);
});

test("a change is shown before the server has answered, and then as the server says", async () => {
  answers = [() => Response.json({ ...CHAT, title: "Green tea", updated_ms: 9 })];
  const done = chats.change(CHAT, { title: "Green  tea" });
  expect(chats.get("a")?.title).toBe("Green  tea");
  await done;
  expect(chats.get("a")).toMatchObject({ title: "Green tea", updated_ms: 9 });
});

test("a change that is refused is taken back, and the reason told", async () => {
  await chats.change(CHAT, { is_pinned: true });
  expect(chats.get("a")?.is_pinned).toBe(false);
  expect(notices.list.map((notice) => notice.text)).toEqual(["The database is locked."]);
});

test("a chat whose deletion is refused stays", async () => {
  await chats.remove("a");
  expect(chats.get("a")?.title).toBe("Tea");
  expect(notices.list).toHaveLength(1);
});

test("a deleted chat is told to whoever shows it", async () => {
  answers = [() => Response.json({})];
  const gone: string[] = [];
  const end = chats.onRemoved((id) => gone.push(id));
  await chats.remove("a");
  end();
  expect(gone).toEqual(["a"]);
});
