import { beforeEach, expect, test } from "vitest";
import { Draft } from "./draft.svelte";

beforeEach(() => localStorage.clear());

function write(draft: Draft, text: string): void {
  draft.text = text;
  draft.keep();
}

test("each chat keeps its own unsent text through a reload", () => {
  const draft = new Draft();
  draft.open("a");
  write(draft, "to a");
  draft.open("b");
  expect(draft.text).toBe("");
  write(draft, "to b");
  const later = new Draft();
  later.open("a");
  expect(later.text).toBe("to a");
});

test("what was sent is forgotten, what was written meanwhile is not", () => {
  const draft = new Draft();
  draft.open("");
  write(draft, "question");
  const taken = draft.take();
  write(draft, "question and more");
  draft.forget(taken, "made");
  expect(draft.text).toBe("question and more");
  draft.forget(draft.take(), "made");
  expect(draft.text).toBe("");
  const later = new Draft();
  later.open("");
  expect(later.text).toBe("");
});

test("sending from a chat that was left forgets its text and leaves that of the other", () => {
  const draft = new Draft();
  draft.open("a");
  write(draft, "sent");
  const taken = draft.take();
  draft.open("b");
  write(draft, "other");
  draft.forget(taken, "a");
  expect(draft.text).toBe("other");
  draft.open("a");
  expect(draft.text).toBe("");
});

test("a file that is too large is refused before it is sent, with both sizes", () => {
  const draft = new Draft();
  draft.add([new File(["x".repeat(3000)], "big.txt")], 1000);
  expect(draft.uploads[0]?.problem).toContain("3 kB");
  expect(draft.uploads[0]?.problem).toContain("1 kB");
  expect(draft.isUploading).toBe(false);
});
