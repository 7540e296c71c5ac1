import { expect, test } from "vitest";
import { fits, isTyping, spoken, type Pressed } from "./keys";

function press(key: string, some: Partial<Pressed> = {}): Pressed {
  return { key, code: "", ctrlKey: false, metaKey: false, shiftKey: false, altKey: false, ...some };
}

test("mod is Ctrl, and Command on Apple's machines", () => {
  expect(fits("mod+k", press("k", { ctrlKey: true }), false)).toBe(true);
  expect(fits("mod+k", press("k", { metaKey: true }), false)).toBe(false);
  expect(fits("mod+k", press("k", { metaKey: true }), true)).toBe(true);
  expect(fits("mod+k", press("k", { ctrlKey: true }), true)).toBe(false);
});

test("no key more and none less", () => {
  expect(fits("mod+k", press("K", { ctrlKey: true, shiftKey: true }), false)).toBe(false);
  expect(fits("mod+shift+o", press("O", { ctrlKey: true, shiftKey: true }), false)).toBe(true);
  expect(fits("mod+shift+o", press("o", { ctrlKey: true }), false)).toBe(false);
  expect(fits("mod+k", press("k", { ctrlKey: true, altKey: true }), false)).toBe(false);
});

test("a keyboard that types no Latin letters works by the place of the key", () => {
  expect(fits("mod+k", press("ن", { ctrlKey: true, code: "KeyK" }), false)).toBe(true);
  expect(fits("mod+k", press("j", { ctrlKey: true, code: "KeyK" }), false)).toBe(false);
});

test("a sign holds its own Shift", () => {
  expect(fits("?", press("?", { shiftKey: true }), false)).toBe(true);
  expect(fits("?", press("?"), false)).toBe(true);
});

test("a plain sign waits while a field has the focus, a key with mod does not", () => {
  const field = document.createElement("textarea");
  expect(isTyping("?", field)).toBe(true);
  expect(isTyping("?", document.body)).toBe(false);
  expect(isTyping("mod+k", field)).toBe(false);
  expect(isTyping("escape", field)).toBe(false);
});

test("keys are named as on the keyboard", () => {
  expect(spoken("mod+shift+o", false)).toBe("Ctrl+Shift+O");
  expect(spoken("mod+shift+o", true)).toBe("⌘⇧O");
  expect(spoken("escape", false)).toBe("Esc");
});
