import { expect, test } from "vitest";
import { keepPage } from "./drag";

/** A drop on `target`: whether the browser would still open what was dropped. */
function opens(target: Element, types: string[]): boolean {
  const event = new Event("drop", { bubbles: true, cancelable: true });
  Object.assign(event, { dataTransfer: { types } });
  addEventListener("drop", keepPage as EventListener, { once: true });
  document.body.append(target);
  return target.dispatchEvent(event);
}

test("a file dropped anywhere does not take the place of the app", () => {
  expect(opens(document.createElement("nav"), ["Files"])).toBe(false);
});

test("a field for files and dragged text are left to the browser", () => {
  const field = document.createElement("input");
  field.type = "file";
  expect(opens(field, ["Files"])).toBe(true);
  expect(opens(document.createElement("textarea"), ["text/plain"])).toBe(true);
});
