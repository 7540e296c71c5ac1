/** The fields of a simple form and the JSON Schema that says the same. */

export const FIELD_TYPES = ["string", "number", "integer", "boolean"] as const;
export type FieldType = (typeof FIELD_TYPES)[number];
export type Field = { name: string; type: FieldType; isList: boolean; isRequired: boolean };

/** A closed object of the fields. Fields without a name are left out. */
export function schemaOf(fields: readonly Field[]): object {
  const named = fields.filter(({ name }) => name.trim() !== "");
  const properties = Object.fromEntries(
    named.map(({ name, type, isList }) => [name.trim(), isList ? { type: "array", items: { type } } : { type }]),
  );
  const required = named.filter(({ isRequired }) => isRequired).map(({ name }) => name.trim());
  return { type: "object", properties, required, additionalProperties: false };
}

/** The fields of a schema that the form can show, or null where it says more than the form can. */
export function fieldsOf(schema: unknown): Field[] | null {
  if (!isObject(schema) || schema["type"] !== "object" || !isObject(schema["properties"])) return null;
  const required = Array.isArray(schema["required"]) ? schema["required"] : [];
  const fields: Field[] = [];
  for (const [name, property] of Object.entries(schema["properties"])) {
    if (!isObject(property)) return null;
    const isList = property["type"] === "array";
    const type = FIELD_TYPES.find((known) => known === (isList ? inner(property["items"]) : property["type"]));
    if (type === undefined) return null;
    fields.push({ name, type, isList, isRequired: required.includes(name) });
  }
  // What the form would lose on its way back is not for the form.
  return sameJson(schemaOf(fields), schema) ? fields : null;
}

/** The JSON in `text`, or why it is none. An empty text is no value. */
export function readJson(text: string): { value: unknown; problem: string | null } {
  if (text.trim() === "") return { value: undefined, problem: null };
  try {
    return { value: JSON.parse(text) as unknown, problem: null };
  } catch (error) {
    return { value: undefined, problem: (error as Error).message };
  }
}

const TYPES = new Set<unknown>(["string", "number", "integer", "boolean", "object", "array", "null"]);
const COMBINING = ["anyOf", "oneOf", "allOf"];
const KEYWORDS = [
  "type",
  "properties",
  "items",
  "prefixItems",
  "enum",
  "const",
  "$ref",
  "not",
  "pattern",
  ...COMBINING,
];
const NAME = /^[\w-]{1,64}$/;

export type SchemaProblem = { kind: "not_object" | "no_keyword" } | { kind: "unknown_type"; name: string };

/** What makes `value` no JSON Schema, here and in the schemas within it; what a server makes of the rest is for it to say. */
export function schemaProblem(value: unknown, isWhole = true): SchemaProblem | null {
  if (typeof value === "boolean" && !isWhole) return null;
  if (!isObject(value)) return { kind: "not_object" };
  if (isWhole && !KEYWORDS.some((keyword) => keyword in value)) return { kind: "no_keyword" };
  const type = value["type"] ?? [];
  const bad = (Array.isArray(type) ? type : [type]).find((one) => !TYPES.has(one));
  if (bad !== undefined) return { kind: "unknown_type", name: JSON.stringify(bad) };
  for (const inside of schemasIn(value)) {
    const problem = schemaProblem(inside, false);
    if (problem !== null) return problem;
  }
  return null;
}

function schemasIn(schema: Record<string, unknown>): unknown[] {
  const named = ["properties", "$defs", "definitions"].map((key) => schema[key]).filter(isObject);
  const listed = [...COMBINING, "prefixItems"].map((key) => schema[key]).filter(Array.isArray);
  const single = ["items", "not"].filter((key) => key in schema).map((key) => schema[key]);
  return [...named.flatMap(Object.values), ...listed.flat(), ...single.flat()] as unknown[];
}

/** The index of the first tool that is not in OpenAI's form, or null. */
export function badTool(tools: readonly unknown[]): number | null {
  const index = tools.findIndex((tool) => {
    if (!isObject(tool) || tool["type"] !== "function" || !isObject(tool["function"])) return true;
    const { name, parameters } = tool["function"];
    return typeof name !== "string" || !NAME.test(name) || (parameters !== undefined && !isObject(parameters));
  });
  return index < 0 ? null : index;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function inner(items: unknown): unknown {
  return isObject(items) ? items["type"] : undefined;
}

function sameJson(a: unknown, b: unknown): boolean {
  if (!isObject(a) || !isObject(b)) return JSON.stringify(a) === JSON.stringify(b);
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => key in b && sameJson(a[key], b[key]));
}
