import { expect, test } from "vitest";
import { budgetSteps, stepOf } from "./budget";
import { withQuote } from "./quote";

test("a quotation is put behind what is written, each line marked", () => {
  expect(withQuote("", "a\n\nb")).toBe("> a\n>\n> b\n\n");
  expect(withQuote("so: ", "a")).toBe("so:\n\n> a\n\n");
});

test("budgets end below the context, and the last step is no limit", () => {
  expect(budgetSteps(1000)).toEqual([128, 256, 512, null]);
  expect(stepOf(undefined, budgetSteps(1000))).toBe(3);
  expect(stepOf(300, budgetSteps(1000))).toBe(2);
  expect(stepOf(99_999, budgetSteps(1000))).toBe(3);
});
