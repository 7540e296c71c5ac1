import { describe, expect, test } from "vitest";
import type { Delta, Message } from "./api";
import { applyDelta, joinPage } from "./fold";

export const message = (fields: Partial<Message> = {}): Message => ({
  id: "m",
  chat_id: "c",
  parent_id: null,
  role: "assistant",
  content: "",
  thoughts: null,
  tool_calls: [],
  tool_call_id: null,
  files: [],
  status: "writing",
  error: null,
  model: null,
  stats: null,
  settings: null,
  is_json_valid: null,
  siblings: ["m"],
  created_ms: 0,
  ...fields,
});

describe("an answer folded from its events", () => {
  test("is the thoughts and then the text in their order", () => {
    const deltas: Delta[] = [
      { thoughts: "hm", at_content: 0, at_thoughts: 0 },
      { thoughts: "!", at_content: 0, at_thoughts: 2 },
      { content: "Tea 🍵", at_content: 0, at_thoughts: 3 },
      // Lengths are UTF-16 units: the cup counts two.
      { content: " now", at_content: 6, at_thoughts: 3 },
    ];
    const end = deltas.reduce<Message | null>((so, delta) => so && applyDelta(so, delta), message());
    expect(end).toMatchObject({ thoughts: "hm!", content: "Tea 🍵 now" });
  });

  test("does not swallow a gap, nor a delta that was there already", () => {
    const so = message({ content: "abc" });
    expect(applyDelta(so, { content: "e", at_content: 4, at_thoughts: 0 })).toBeNull();
    expect(applyDelta(so, { content: "c", at_content: 2, at_thoughts: 0 })).toBeNull();
    expect(applyDelta(so, { content: "d", at_content: 3, at_thoughts: 1 })).toBeNull();
  });

  test("takes the calls of tools as a whole list", () => {
    const calls = [{ id: "1", name: "weather", arguments: "{}" }];
    expect(applyDelta(message(), { tool_calls: calls, at_content: 0, at_thoughts: 0 })?.tool_calls).toEqual(calls);
  });
});

describe("the newest page joined with what is shown", () => {
  const ids = (text: string) => [...text].map((id) => ({ id }));
  test("keeps older rows that lead up to it", () => {
    expect(joinPage(ids("abcd"), ids("cdef"))).toEqual({ rows: ids("abcdef"), isJoined: true });
  });
  test("replaces rows of another branch behind the fork", () => {
    expect(joinPage(ids("abxy"), ids("bcd"))).toEqual({ rows: ids("abcd"), isJoined: true });
  });
  test("stands alone where nothing leads up to it", () => {
    expect(joinPage(ids("xy"), ids("cd"))).toEqual({ rows: ids("cd"), isJoined: false });
  });
});
