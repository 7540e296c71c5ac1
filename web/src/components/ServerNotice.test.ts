import { flushSync, mount, unmount } from "svelte";
import { expect, test } from "vitest";
import { session } from "$lib/state/session.svelte";
import ServerNotice from "./ServerNotice.svelte";

const user = { id: "local", name: "local", is_admin: true, is_disabled: false, created_ms: 0 };
const limits = { file_bytes: 1, message_chars: 1 };

function shown(pathName: string | null): string {
  const notice = pathName === null ? null : { code: "database_set_aside", message: "set aside", path_name: pathName };
  session.me = { user, needs_login: false, needs_setup: false, version: "1", limits, notice };
  const component = mount(ServerNotice, { target: document.body });
  flushSync();
  const text = document.querySelector("[role=status]")?.textContent.trim() ?? "";
  document.querySelector("button")?.click();
  flushSync();
  expect(document.querySelector("button")).toBeNull();
  void unmount(component);
  return text;
}

test("a database that was set aside is told of by its file until that was read, and another one again", () => {
  expect(shown(null)).toBe("");
  expect(shown("app.sqlite3.damaged-1")).toContain("app.sqlite3.damaged-1");
  expect(shown("app.sqlite3.damaged-1")).toBe("");
  expect(shown("app.sqlite3.damaged-2")).toContain("app.sqlite3.damaged-2");
});
