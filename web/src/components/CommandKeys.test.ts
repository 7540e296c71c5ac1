import { flushSync, mount, unmount } from "svelte";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { commands } from "$lib/state/commands.svelte";
import CommandKeys from "./CommandKeys.svelte";

// jsdom has no media queries, and the shell asks for one as it is loaded.
vi.hoisted(() => {
  globalThis.matchMedia = () => Object.assign(new EventTarget(), { matches: true }) as unknown as MediaQueryList;
});

let ran: string[];
let isFree: boolean;
let component: object;
let remove: () => void;

beforeEach(() => {
  [ran, isFree] = [[], true];
  component = mount(CommandKeys, { target: document.body });
  flushSync();
  remove = commands.add([
    {
      id: "stop",
      label: "composer.stop",
      keys: "mod+.",
      otherKeys: "escape",
      run: () => ran.push("stop"),
      isOffered: (keys) => keys !== "escape" || isFree,
    },
  ]);
});

afterEach(() => {
  remove();
  void unmount(component);
});

const press = (key: string, ctrlKey = false) =>
  window.dispatchEvent(new KeyboardEvent("keydown", { key, ctrlKey, cancelable: true }));

test("either of a command's keys runs it", () => {
  press("Escape");
  press(".", true);
  expect(ran).toEqual(["stop", "stop"]);
});

test("a key that means something else at the moment is left to that", () => {
  isFree = false;
  expect(press("Escape")).toBe(true);
  press(".", true);
  expect(ran).toEqual(["stop"]);
});
