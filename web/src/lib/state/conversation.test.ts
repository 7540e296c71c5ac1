import type { AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { server, store } from "../../../mock/server.mjs";
import { api } from "../api";
import { Conversation } from "./conversation.svelte";
import { notices } from "./notices.svelte";
import { router } from "./route.svelte";

const wait = { timeout: 8000, interval: 20 };
let conversation: Conversation;

beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const real = globalThis.fetch;
  vi.stubGlobal("fetch", (path: string, options?: RequestInit) => real(`http://127.0.0.1:${port}${path}`, options));
});

afterAll(() => {
  server.closeAllConnections();
  server.close();
  vi.unstubAllGlobals();
});

beforeEach(() => {
  conversation = new Conversation();
});

afterEach(() => conversation.destroy());

const shown = () => conversation.rows.map((row) => row.value.content);
const isDone = () => vi.waitFor(() => expect(conversation.last?.status).toBe("done"), wait);

async function ask(text: string): Promise<void> {
  await conversation.changeSettings({ mode: "fast" });
  expect(await conversation.send(text, [])).toBe(conversation.chat.id);
}

test("the first message makes the chat, and the answer grows in it to its end", async () => {
  await ask("json please");
  expect(location.hash).toBe(`#/c/${conversation.chat.id}`);
  await isDone();
  expect(shown()).toEqual(["json please", '{"name": "Ada", "age": 36}']);
  expect(conversation.finished?.id).toBe(conversation.last?.id);
});

test("an edited question is a branch beside the first, and one can go back to that", async () => {
  await ask("json please");
  await isDone();
  const first = conversation.rows[0]?.value;
  await conversation.send("json again", [], null);
  await isDone();
  expect(conversation.rows[0]?.value.siblings).toHaveLength(2);
  await conversation.walk(first?.id ?? "");
  expect(shown()).toEqual(["json please", '{"name": "Ada", "age": 36}']);
});

test("another answer takes the place of the one that was shown", async () => {
  await ask("json please");
  await isDone();
  const before = conversation.last;
  await conversation.regenerate(before!);
  await isDone();
  expect(conversation.rows).toHaveLength(2);
  expect(conversation.last?.siblings).toEqual([before?.id, conversation.last?.id]);
});

test("a stopped answer keeps its text and can be continued", async () => {
  await ask("long");
  await vi.waitFor(() => expect(conversation.last?.content).toContain("Paragraph 1"), wait);
  await conversation.stop();
  await vi.waitFor(() => expect(conversation.last?.status).toBe("stopped"), wait);
  const text = conversation.last?.content ?? "";
  await conversation.continueAnswer(conversation.last!);
  await isDone();
  expect(conversation.last?.content).toBe(`${text} and so it goes on for some more words.`);
});

test("a gap in the events is mended by a fresh state", async () => {
  await ask("long");
  await vi.waitFor(() => expect(conversation.last?.content).toContain("Paragraph 1"), wait);
  const id = conversation.last?.id ?? "";
  const message = store.messages.get(id)!;
  message.content += "LOST";
  await vi.waitFor(() => expect(conversation.last?.content).toContain("LOST"), wait);
  await conversation.stop();
  await vi.waitFor(() => expect(conversation.last?.content).toBe(store.messages.get(id)?.content), wait);
});

test("a page that opens in mid-answer sees all of it", async () => {
  await ask("demo");
  await vi.waitFor(() => expect(conversation.last?.content).not.toBe(""), wait);
  const other = new Conversation();
  await other.open(conversation.chat.id);
  await isDone();
  await vi.waitFor(() => expect(other.last).toEqual(conversation.last), wait);
  other.destroy();
});

test("each result goes back to the model, and it goes on after the last", async () => {
  await ask("tool");
  await isDone();
  const { id, tool_calls } = conversation.last!;
  expect(conversation.canGiveResult(id)).toBe(true);
  await conversation.giveResult(tool_calls[0]!.id, "json", true);
  await isDone();
  expect(conversation.answeredCalls.has(tool_calls[0]!.id)).toBe(true);
  expect(conversation.rows.map((row) => row.value.role)).toEqual(["user", "assistant", "tool", "assistant"]);
  expect(conversation.canGiveResult(id)).toBe(false);
});

test("a long chat comes page by page, each message once and in order", async () => {
  const chat = store.addLongChat(350);
  await conversation.open(chat.id);
  expect(conversation.rows).toHaveLength(100);
  while (conversation.hasMore) await conversation.loadOlder();
  expect(shown().map((text) => Number(/\d+/.exec(text)?.[0]))).toEqual(Array.from({ length: 350 }, (_, i) => i));
});

test("a link to a message opens the page of the path that it is on", async () => {
  const chat = store.addLongChat(350);
  const target = [...store.messages.values()].find((one) => one.chat_id === chat.id && one.content === "Question 20")!;
  await conversation.open(chat.id, target.id);
  expect(conversation.rows.some((row) => row.id === target.id)).toBe(true);
});

test("what is sent goes to its own chat, and not into one that was opened meanwhile", async () => {
  const [own, other] = [store.addLongChat(2), store.addLongChat(4)];
  await conversation.open(own.id);
  const sending = conversation.send("json please", []);
  await conversation.open(other.id);
  expect(await sending).toBe(own.id);
  expect(conversation.rows).toHaveLength(4);
  expect([...store.messages.values()].filter((one) => one.chat_id === own.id)).toHaveLength(4);
});

test("a question that has no answer can be given one", async () => {
  const chat = store.addLongChat(3);
  await conversation.open(chat.id);
  await conversation.regenerate(conversation.last!);
  expect(conversation.rows).toHaveLength(4);
  await isDone();
});

test("a deleted question takes its answer along", async () => {
  await ask("json please");
  await isDone();
  await conversation.remove(conversation.rows[0]!.id);
  expect(conversation.rows).toEqual([]);
});

test("a chat whose first message cannot be sent goes again, and the page stays where it is", async () => {
  router.go("#/");
  await conversation.change({ system: "Be brief." });
  const before = (await api.chats()).chats.length;
  expect(await conversation.send("with a file that is gone", ["no-such-file"])).toBeNull();
  expect((await api.chats()).chats).toHaveLength(before);
  expect([location.hash, conversation.chat.id, conversation.chat.system]).toEqual(["#/", "", "Be brief."]);
});

test("a chat that is not there says so", async () => {
  await conversation.open("nothing");
  expect(conversation.isMissing).toBe(true);
  expect(notices.list.at(-1)?.text).toContain("does not exist");
});

test("the chat that was opened last wins over one that is still on its way", async () => {
  const [slow, quick] = [store.addLongChat(3), store.addLongChat(5)];
  const first = conversation.open(slow.id);
  await conversation.open(quick.id);
  await first;
  expect([conversation.chat.id, conversation.rows.length]).toEqual([quick.id, 5]);
});
