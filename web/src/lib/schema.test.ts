import { expect, test } from "vitest";
import { fieldsOf, readJson, schemaOf, type Field } from "./schema";

const FIELDS: Field[] = [
  { name: "name", type: "string", isList: false, isRequired: true },
  { name: "marks", type: "integer", isList: true, isRequired: false },
];

test("fields make a closed schema and come back from it", () => {
  const schema = schemaOf(FIELDS);
  expect(schema).toEqual({
    type: "object",
    properties: { name: { type: "string" }, marks: { type: "array", items: { type: "integer" } } },
    required: ["name"],
    additionalProperties: false,
  });
  expect(fieldsOf(schema)).toEqual(FIELDS);
});

test.each([
  { type: "array", items: {} },
  { type: "object", properties: { a: { type: "string", minLength: 2 } }, required: [], additionalProperties: false },
  { type: "object", properties: { a: { type: "object" } }, required: [], additionalProperties: false },
  { type: "object", properties: { a: { type: "string" } }, required: [], additionalProperties: true },
  "text",
  null,
])("a schema that says more than the form is not forced into it: %j", (schema) => {
  expect(fieldsOf(schema)).toBeNull();
});

test("what is no JSON says why, and nothing is no problem", () => {
  expect(readJson("{").problem).not.toBeNull();
  expect(readJson("  ")).toEqual({ value: undefined, problem: null });
});
