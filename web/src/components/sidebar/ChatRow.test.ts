import { mount, unmount } from "svelte";
import { expect, test } from "vitest";
import type { Chat } from "$lib/api";

window.matchMedia ??= () => ({ matches: false, addEventListener: () => undefined }) as unknown as MediaQueryList;
const { default: ChatRow } = await import("./ChatRow.svelte");

const CHAT: Chat = {
  id: "a",
  title: "<img src=x onerror=alert(1)>",
  folder: null,
  is_pinned: false,
  is_archived: false,
  system: "",
  model: null,
  settings: {},
  leaf_id: null,
  created_ms: 0,
  updated_ms: 0,
  n_messages: 1,
  is_answering: true,
};

test("a hostile title and snippet stay text, and only the hit is marked", () => {
  const none = () => undefined;
  const row = mount(ChatRow, {
    target: document.body,
    props: {
      chat: CHAT,
      isCurrent: true,
      snippet: "<script>\u0002tea\u0003</script>",
      href: "#/c/a",
      onchange: none,
      onask: none,
      onopen: none,
    },
  });
  expect(document.body.querySelectorAll("img, script")).toHaveLength(0);
  expect(document.querySelector(".title")?.textContent).toBe(CHAT.title);
  expect([...document.querySelectorAll("mark")].map((mark) => mark.textContent)).toEqual(["tea"]);
  expect(document.querySelector("a")?.getAttribute("aria-current")).toBe("page");
  expect(document.querySelector("[role=img]")?.getAttribute("aria-label")).toBe("An answer is being written");
  void unmount(row);
});
