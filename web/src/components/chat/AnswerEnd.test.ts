import { flushSync, mount, unmount } from "svelte";
import { afterEach, expect, test, vi } from "vitest";
import type { FileInfo, Message } from "$lib/api";
import AnswerEnd from "./AnswerEnd.svelte";
import TooLong from "./TooLong.svelte";

let component: object;
afterEach(() => void unmount(component));

const message = (fields: Partial<Message>) => ({ error: null, is_json_valid: null, files: [], ...fields }) as Message;
const file = { id: "f", name: "a.txt" } as FileInfo;
const buttons = () => [...document.querySelectorAll("button")].map((button) => button.textContent.trim());

function end(fields: Partial<Message>): string {
  const props = { message: message(fields), resume: null, retry: () => undefined, tooLong: null };
  component = mount(AnswerEnd, { target: document.body, props });
  return document.body.textContent.trim();
}

function tooLong(fields: Partial<Message>) {
  const [startAnew, edit] = [vi.fn(), vi.fn()];
  component = mount(TooLong, { target: document.body, props: { question: message(fields), startAnew, edit } });
  for (const button of document.querySelectorAll("button")) button.click();
  flushSync();
  return [startAnew.mock.calls.length, edit.mock.calls.length];
}

test("an answer that was ended for a reason says it", () => {
  const fields = { status: "stopped", error: "the answer went round", error_code: "loop" } as const;
  expect(end(fields)).toBe("The answer went round in circles, so it was ended.");
});

test("a reason of no known kind stands behind what became of the answer", () => {
  expect(end({ status: "stopped", error: "it was odd" })).toBe("The answer was stopped. It was odd");
});

test("an answer that was stopped by its reader says just that", () => {
  expect(end({ status: "stopped" })).toBe("The answer was stopped.");
});

test("a chat that is too long goes on in another", () => {
  expect(tooLong({ parent_id: "before" })).toEqual([1, 0]);
  expect(buttons()).toEqual(["Start a new chat from here"]);
});

test("a first question whose file is too long can go without it, and one without a file can be cut", () => {
  expect(tooLong({ parent_id: null, files: [file] })).toEqual([0, 1]);
  expect(buttons()).toEqual(["Remove the file and edit"]);
  void unmount(component);
  expect(tooLong({ parent_id: null })).toEqual([0, 1]);
  expect(buttons()).toEqual(["Edit"]);
});
