import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { ApiError } from "../api";
import { SHOWN_MS, notices } from "./notices.svelte";

beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  notices.clear();
  vi.useRealTimers();
});

const texts = () => notices.list.map(({ text }) => text);

test("news go by themselves, and failures after a longer while", () => {
  notices.add("saved");
  notices.add("failed", "error");
  vi.advanceTimersByTime(SHOWN_MS.info);
  expect(texts()).toEqual(["failed"]);
  vi.advanceTimersByTime(SHOWN_MS.error - SHOWN_MS.info);
  expect(texts()).toEqual([]);
});

test("what somebody reads stays, with its whole time after that", () => {
  notices.add("failed", "error");
  notices.hold(true);
  vi.advanceTimersByTime(10 * SHOWN_MS.error);
  expect(texts()).toEqual(["failed"]);
  notices.hold(false);
  vi.advanceTimersByTime(SHOWN_MS.error - 1);
  expect(texts()).toEqual(["failed"]);
  vi.advanceTimersByTime(1);
  expect(texts()).toEqual([]);
});

test("that the server is away is taken back when it is there again, and nothing else is", () => {
  notices.failHere(new ApiError(0, "offline", "away"));
  notices.failHere(new ApiError(409, "conflict", "taken"));
  expect(notices.list).toHaveLength(2);
  notices.clearOffline();
  expect(notices.list.map(({ isOffline }) => isOffline)).toEqual([undefined]);
});
