import { flushSync, mount, unmount } from "svelte";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { PaletteEntry } from "$lib/palette";

window.matchMedia ??= () => ({ matches: false, addEventListener: () => undefined }) as unknown as MediaQueryList;
HTMLDialogElement.prototype.showModal ??= () => undefined;
HTMLDialogElement.prototype.close ??= () => undefined;
Element.prototype.scrollIntoView ??= () => undefined;
const { default: Palette } = await import("./Palette.svelte");

let ran: string[] = [];
let palette: ReturnType<typeof mount>;
const entry = (label: string): PaletteEntry => ({ id: label, label, kind: "", run: () => void ran.push(label) });

beforeEach(() => {
  vi.useFakeTimers();
  ran = [];
  palette = mount(Palette, {
    target: document.body,
    props: {
      entries: [entry("New chat"), entry("Settings"), entry("Dashboard")],
      search: (query: string) => Promise.resolve([entry(`found for ${query}`), entry("Settings")]),
      onclose: () => void ran.push("closed"),
    },
  });
  flushSync();
});

afterEach(async () => {
  await unmount(palette);
  vi.useRealTimers();
});

const shown = () => [...document.querySelectorAll("[role=option] .name")].map((one) => one.textContent);
const chosen = () => document.querySelector("[aria-selected=true] .name")?.textContent;

function input(): HTMLInputElement {
  const found = document.querySelector("input");
  if (found === null) throw new Error("no field");
  return found;
}

function type(text: string) {
  input().value = text;
  input().dispatchEvent(new Event("input", { bubbles: true }));
  flushSync();
}

function press(key: string) {
  input().dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  flushSync();
}

test("arrows go round the list, and the field names the chosen line to screen readers", () => {
  press("ArrowUp");
  expect(chosen()).toBe("Dashboard");
  press("ArrowDown");
  expect(chosen()).toBe("New chat");
  const active = document.getElementById(input().getAttribute("aria-activedescendant") ?? "");
  expect(active?.textContent).toContain("New chat");
});

test("letters narrow the list, and Enter closes before it runs the first", () => {
  press("ArrowDown");
  type("dsh");
  expect(shown()).toEqual(["Dashboard"]);
  press("Enter");
  vi.runAllTimers();
  expect(ran).toEqual(["closed", "Dashboard"]);
});

test("what the server finds comes behind, each line once", async () => {
  type("set");
  await vi.advanceTimersByTimeAsync(300);
  flushSync();
  expect(shown()).toEqual(["Settings", "found for set"]);
});

test("Enter on an empty list does nothing", () => {
  type("zzz");
  press("Enter");
  vi.runAllTimers();
  expect(ran).not.toContain("closed");
});
