import { afterEach, expect, test, vi } from "vitest";
import { copyText } from "./clipboard";

afterEach(() => {
  vi.unstubAllGlobals();
  document.body.replaceChildren();
  Reflect.deleteProperty(document, "execCommand");
});

/** A browser that copies what is selected, or refuses to. */
function browser(isAllowed: boolean): string[] {
  const copied: string[] = [];
  document.execCommand = () => {
    if (isAllowed) copied.push((document.activeElement as HTMLTextAreaElement).value);
    return isAllowed;
  };
  return copied;
}

test("the clipboard of the browser is used where it is there", async () => {
  const writeText = vi.fn(() => Promise.resolve());
  vi.stubGlobal("navigator", { clipboard: { writeText } });
  expect(await copyText("a\nb")).toBe(true);
  expect(writeText).toHaveBeenCalledWith("a\nb");
});

test("over plain http the text is copied by a selection, and the focus is where it was", async () => {
  vi.stubGlobal("navigator", {});
  const copied = browser(true);
  const button = document.body.appendChild(document.createElement("button"));
  button.focus();
  expect(await copyText("a\nb")).toBe(true);
  expect(copied).toEqual(["a\nb"]);
  expect(document.activeElement).toBe(button);
  expect(document.querySelector("textarea")).toBeNull();
});

test("where both fail the answer says so", async () => {
  vi.stubGlobal("navigator", {});
  browser(false);
  expect(await copyText("a")).toBe(false);
});
