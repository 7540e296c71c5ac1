import { describe, expect, test } from "vitest";
import type { Chat, ChatPage } from "$lib/api";
import { ALL, ChatList, type Filter } from "$lib/state/chat_list.svelte";

function chat(id: string, updated_ms: number, more: Partial<Chat> = {}): Chat {
  return {
    id,
    title: id,
    folder: null,
    is_pinned: false,
    is_archived: false,
    system: "",
    model: null,
    settings: {},
    leaf_id: null,
    created_ms: 0,
    updated_ms,
    n_messages: 1,
    is_answering: false,
    ...more,
  };
}

const page = (chats: Chat[], next: string | null = null): ChatPage => ({ chats, next, folders: [] });
const ids = (list: ChatList) => list.chats.map((one) => one.id).join(" ");

/** A server that answers when told to. */
class Server {
  asked: { filter: Filter; before: string | null; answer: (page: ChatPage) => void; fail: (why: Error) => void }[] = [];
  load = (filter: Filter, before: string | null) =>
    new Promise<ChatPage>((answer, fail) => this.asked.push({ filter, before, answer, fail }));
  async answers(n: number, what: ChatPage) {
    this.asked[n]?.answer(what);
    await Promise.resolve()
      .then(() => undefined)
      .then(() => undefined);
  }
}

async function shown(first: ChatPage): Promise<{ list: ChatList; server: Server }> {
  const server = new Server();
  const list = new ChatList(server.load);
  const done = list.show(ALL);
  await server.answers(0, first);
  await done;
  return { list, server };
}

describe("the list of chats", () => {
  test("the next page is asked for once with the cursor, and joined", async () => {
    const { list, server } = await shown(page([chat("b", 2)], "cursor"));
    const done = Promise.all([list.more(), list.more()]);
    expect(server.asked.map((one) => one.before)).toEqual([null, "cursor"]);
    await server.answers(1, page([chat("b", 2), chat("a", 1)]));
    await done;
    expect(ids(list)).toBe("b a");
    expect(list.hasMore).toBe(false);
  });

  test("a chat that changes moves to the top, a pinned one above it", async () => {
    const { list } = await shown(page([chat("c", 3), chat("b", 2), chat("a", 1)]));
    list.put(chat("a", 9));
    expect(ids(list)).toBe("a c b");
    list.put(chat("b", 2, { is_pinned: true }));
    expect(ids(list)).toBe("b a c");
  });

  test("a chat that is archived leaves the list, a deleted one too", async () => {
    const { list } = await shown(page([chat("b", 2), chat("a", 1)]));
    list.put(chat("b", 3, { is_archived: true }));
    list.drop("a");
    expect(ids(list)).toBe("");
  });

  test("a chat that belongs on a page not loaded yet is left for that page", async () => {
    const { list } = await shown(page([chat("c", 30), chat("b", 20)], "cursor"));
    list.put(chat("old", 10));
    list.put(chat("new", 25));
    expect(ids(list)).toBe("c new b");
  });

  test("a new chat does not push itself into the hits of a search", async () => {
    const { list, server } = await shown(page([]));
    const done = list.show({ ...ALL, query: "tea" });
    await server.answers(1, page([chat("tea", 1)]));
    await done;
    list.put(chat("other", 5));
    list.put(chat("tea", 6, { title: "green tea" }));
    expect(list.chats.map((one) => one.title)).toEqual(["green tea"]);
  });

  test("the answer to an earlier search that comes late is passed over", async () => {
    const { list, server } = await shown(page([]));
    const first = list.show({ ...ALL, query: "t" });
    const second = list.show({ ...ALL, query: "tea" });
    await server.answers(2, page([chat("tea", 1)]));
    await server.answers(1, page([chat("t", 1)]));
    await Promise.all([first, second]);
    expect(ids(list)).toBe("tea");
    expect(list.isLoading).toBe(false);
  });

  test("a failure keeps what is shown and says why", async () => {
    const { list, server } = await shown(page([chat("a", 1)]));
    const done = list.reload();
    server.asked[1]?.fail(new Error("offline"));
    await done;
    expect(ids(list)).toBe("a");
    expect(list.error).toEqual(new Error("offline"));
  });
});
