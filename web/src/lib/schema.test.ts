import { expect, test } from "vitest";
import { badTool, fieldsOf, readJson, schemaOf, schemaProblem, type Field } from "./schema";

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

test("a schema is an object that says something, of the types that there are", () => {
  expect(schemaProblem([])).toEqual({ kind: "not_object" });
  expect(schemaProblem({ name: "string" })).toEqual({ kind: "no_keyword" });
  expect(schemaProblem({ type: "nonsense" })).toEqual({ kind: "unknown_type", name: '"nonsense"' });
  expect(schemaProblem({ type: ["string", 1] })).toEqual({ kind: "unknown_type", name: "1" });
  expect(schemaProblem({ properties: { a: { items: { type: "text" } } } })).toEqual({
    kind: "unknown_type",
    name: '"text"',
  });
});

test.each([
  { type: "object", properties: { type: { type: "string" }, free: {}, any: true } },
  { enum: ["a", 1] },
  { anyOf: [{ type: ["string", "null"] }, { $ref: "#/$defs/a" }], $defs: { a: { const: 1 } } },
])("a good schema is taken: %j", (schema) => {
  expect(schemaProblem(schema)).toBeNull();
});

test("the first tool that is not in OpenAI's form is named", () => {
  const tool = { type: "function", function: { name: "get_time", parameters: { type: "object" } } };
  expect(badTool([])).toBeNull();
  expect(badTool([tool])).toBeNull();
  expect(badTool([{ name: 1 }])).toBe(0);
  expect(badTool([tool, { type: "function", function: { name: "two words" } }])).toBe(1);
  expect(badTool([tool, { ...tool, type: "retrieval" }])).toBe(1);
});
