import { make } from "./dom.js";

const LIMITS = {
  minLength: "at least", maxLength: "at most", minItems: "at least", maxItems: "at most",
  minimum: "from", maximum: "to", exclusiveMinimum: "above", exclusiveMaximum: "below",
};

export const anchor = (kind, name) => `${kind}-${name}`;

/** A JSON schema as an element: one line, and a list of its fields where it has any. References become links. */
export function schemaList(schema, kind) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    const where = schema.$ref.startsWith("openapi.yaml") ? "rest" : kind; // the events share shapes with the REST calls
    return make("a", { href: `#${anchor(where, name)}` }, name);
  }
  const whole = make("div", { className: "shape" }, make("span", {}, words(schema)), ...describe(schema.description));
  for (const [key, joint] of [["oneOf", "one of"], ["anyOf", "any of"], ["allOf", "all of"]]) {
    if (schema[key]) whole.append(make("span", {}, `${joint}:`), list(schema[key].map((part) => [schemaList(part, kind)])));
  }
  if (schema.items && typeof schema.items === "object") whole.append(list([["each: ", schemaList(schema.items, kind)]]));
  const fields = Object.entries(schema.properties ?? {});
  if (fields.length) whole.append(list(fields.map(([name, field]) => fieldLine(name, field, schema.required ?? [], kind))));
  return whole;
}

/** Paragraphs of a description, `code` in backticks. */
export function describe(text) {
  return (text ?? "").split(/\n\s*\n/).filter((part) => part.trim())
    .map((part) => make("p", {}, ...part.split("`").map((piece, index) => (index % 2 ? make("code", {}, piece) : piece))));
}

const list = (rows) => make("ul", {}, ...rows.map((parts) => make("li", {}, ...parts)));

const fieldLine = (name, field, required, kind) =>
  [make("code", {}, name), required.includes(name) ? " " : " (optional) ", schemaList(field, kind)];

function words(schema) {
  const types = [schema.type ?? []].flat().join(" or ");
  const limits = Object.entries(LIMITS).filter(([key]) => key in schema).map(([key, word]) => `${word} ${schema[key]}`);
  return [
    types, schema.format, "const" in schema && JSON.stringify(schema.const),
    schema.enum && schema.enum.map((value) => JSON.stringify(value)).join(", "), schema.pattern, ...limits,
  ].filter(Boolean).join(", ");
}
