import { describe, expect, test } from "vitest";
import type { Chat } from "$lib/api";
import { compareChats, groupChats } from "./groups";

const NOW = new Date(2026, 2, 30, 0, 30); // half past midnight, the day after clocks go forward in Europe

function chat(id: string, changed: Date, isPinned = false): Chat {
  return {
    id,
    title: id,
    folder: null,
    is_pinned: isPinned,
    is_archived: false,
    system: "",
    model: null,
    settings: {},
    leaf_id: null,
    created_ms: 0,
    updated_ms: changed.getTime(),
    n_messages: 1,
    is_answering: false,
  };
}

describe("groups of chats", () => {
  test("a chat of an hour ago is of yesterday where midnight lies between", () => {
    const groups = groupChats([chat("a", new Date(2026, 2, 29, 23, 30))], NOW);
    expect(groups.map((group) => group.id)).toEqual(["yesterday"]);
  });

  test("each chat is in the group of its day, months apart by year, pinned ones on top whatever their day", () => {
    const chats = [
      chat("old pin", new Date(2024, 0, 1), true),
      chat("ten minutes", new Date(2026, 2, 30, 0, 20)),
      chat("six days", new Date(2026, 2, 24, 1)),
      chat("seven days", new Date(2026, 2, 23, 23)),
      chat("a year", new Date(2025, 2, 23)),
    ].sort(compareChats);
    expect(groupChats(chats, NOW).map((group) => [group.id, group.chats.map((one) => one.id)])).toEqual([
      ["pinned", ["old pin"]],
      ["today", ["ten minutes"]],
      ["week", ["six days"]],
      ["month-2026-3", ["seven days"]],
      ["month-2025-3", ["a year"]],
    ]);
  });

  test("a chat from a clock that is ahead counts as of today", () => {
    expect(groupChats([chat("a", new Date(2026, 3, 2))], NOW)[0]?.id).toBe("today");
  });
});
