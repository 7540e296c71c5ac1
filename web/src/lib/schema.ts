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
