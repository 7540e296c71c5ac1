import { flushSync, mount, unmount } from "svelte";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Settings } from "$lib/api";

// Both are asked for when state is loaded; jsdom has neither.
window.matchMedia ??= () => ({ matches: false, addEventListener: () => undefined }) as unknown as MediaQueryList;
const { default: SamplingFields } = await import("./SamplingFields.svelte");

let changes: Settings[] = [];
let fields: ReturnType<typeof mount>;

beforeEach(() => {
  changes = [];
  fields = mount(SamplingFields, {
    target: document.body,
    props: { settings: { seed: 7 }, defaults: { top_p: 0.8 }, onchange: (settings) => changes.push(settings) },
  });
});

afterEach(() => unmount(fields));

function field(label: string): HTMLInputElement {
  const found = [...document.querySelectorAll("label")].find((one) => one.textContent === label);
  const input = document.getElementById(found?.htmlFor ?? "");
  if (!(input instanceof HTMLInputElement)) throw new Error(`no field ${label}`);
  return input;
}

function enter(label: string, text: string) {
  const input = field(label);
  input.value = text;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  flushSync();
}

test("a value that is set is shown, the model's own only as a hint", () => {
  expect(field("Seed").value).toBe("7");
  expect([field("Top p").value, field("Top p").placeholder]).toEqual(["", "Default: 0.8"]);
});

test("a good value is told with the others, an emptied field takes its value away", () => {
  enter("Temperature", "0,5");
  enter("Seed", "");
  expect(changes).toEqual([{ seed: 7, temperature: 0.5 }, {}]);
});

test("a value out of bounds is not told, and the field says what is expected", () => {
  enter("Top p", "7");
  expect(changes).toEqual([]);
  expect(field("Top p").getAttribute("aria-invalid")).toBe("true");
  const hint = document.getElementById(field("Top p").getAttribute("aria-describedby") ?? "");
  expect(hint?.textContent).toContain("from 0 to 1");
});
