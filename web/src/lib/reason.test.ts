import { afterEach, expect, test } from "vitest";
import { ApiError } from "./api";
import { reasonOf, reasonOfCode } from "./reason";
import { locale } from "./state/locale.svelte";

afterEach(() => locale.choose(["en"]));

test("a failure with a known code is told in the language of the page", async () => {
  const away = new ApiError(0, "offline", "The server cannot be reached.");
  expect(reasonOf(away)).toBe("The server cannot be reached.");
  await locale.choose(["de"]);
  expect(reasonOf(away)).toBe("Der Server ist nicht erreichbar.");
  expect(reasonOfCode("loop", "the answer went round in circles")).toMatch(/im Kreis/);
});

test("what only the server's words name is kept in the sentence", async () => {
  expect(reasonOfCode("file_unreadable", "notes.pdf: it is damaged")).toBe("notes.pdf: it is damaged");
  await locale.choose(["fr"]);
  expect(reasonOfCode("file_empty", "a.txt is empty")).toMatch(/vide.*a\.txt is empty/);
});

test("a code without a sentence leaves the server's words, with a capital", () => {
  expect(reasonOfCode("unheard_of", "the title is taken")).toBe("The title is taken");
  expect(reasonOfCode(null, "a title is taken")).toBe("A title is taken");
  expect(reasonOf(new Error("é was not taken"))).toBe("É was not taken");
  expect(reasonOfCode("toString", "it failed")).toBe("It failed");
});
