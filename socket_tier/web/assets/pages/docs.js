/** Renders openapi.yaml and asyncapi.yaml of this very node, so that what is read is what it does. */
import { byTestId, make, setText } from "../ui/dom.js";
import { anchor, describe, schemaList } from "../ui/schema.js";
import { load } from "../vendor/js-yaml.mjs";

const EXAMPLE = `import { connect } from "${location.origin}/assets/client.js";

const client = connect({ url: "${location.origin}" });
client.on("poll", (poll) => draw(poll.options, poll.votes, poll.percentages));
client.on("vote", ({ optionIndex, state }) => mark(optionIndex, state)); // sending, accepted, counted
await client.join({ roomCode: "ABC234", nickname: "Ada" });
client.vote(1); // offline, too: it is kept, and sent when the line is back`;

async function read(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return load(await answer.text());
}

function showRest(openapi) {
  const calls = Object.entries(openapi.paths).flatMap(([path, item]) =>
    Object.entries(item)
      .filter(([method]) => method !== "parameters")
      .map(([method, call]) => restCall(path, method, call, [...(item.parameters ?? []), ...(call.parameters ?? [])], openapi)),
  );
  byTestId("openapi").append(...describe(openapi.info.description), ...calls, ...schemas("rest", openapi));
}

function restCall(path, method, call, parameters, openapi) {
  const body = call.requestBody?.content?.["application/json"]?.schema;
  const answers = Object.entries(call.responses).map(([status, given]) => {
    const answer = resolve(openapi, given);
    const schema = Object.values(answer.content ?? {})[0]?.schema;
    return make("tr", {}, make("th", { scope: "row" }, status), make("td", {}, answer.description ?? ""),
      make("td", {}, ...(schema ? [schemaList(schema, "rest")] : [])));
  });
  return operation(
    make("span", { className: "method" }, method.toUpperCase()), path, call,
    ...parameters.map((given) => parameter(resolve(openapi, given))),
    ...(body ? [make("h3", {}, "Body"), schemaList(body, "rest")] : []),
    make("h3", {}, "Answers"),
    make("div", { className: "wide-table", tabIndex: 0, role: "region", aria: { label: `Answers of ${method.toUpperCase()} ${path}` } },
      make("table", {}, make("tbody", {}, ...answers))),
  );
}

const parameter = ({ name, in: where, description = "", required }) =>
  make("p", { className: "note" }, make("code", {}, name), ` in ${where}${required ? "" : ", may be left out"}. ${description}`);

function showEvents(asyncapi) {
  const { messages } = asyncapi.components;
  const named = ({ $ref }) => messages[resolve(asyncapi, { $ref }, 1).$ref.split("/").at(-1)];
  const events = Object.values(asyncapi.operations).map((event) => {
    const message = named(event.messages[0]);
    const reply = event.reply && named(event.reply.messages[0]);
    const way = event.action === "receive" ? "to the server" : "from the server";
    return operation(
      make("span", { className: "method" }, way), message.name, event,
      ...(message.payload ? [make("h3", {}, "Payload"), schemaList(message.payload, "events")] : []),
      ...(reply ? [make("h3", {}, "Answer"), schemaList(reply.payload, "events")] : []),
    );
  });
  byTestId("asyncapi").append(...describe(asyncapi.info.description), ...events, ...schemas("events", asyncapi));
}

function operation(badge, name, { summary = "", description }, ...parts) {
  return make("details", { className: "operation" },
    make("summary", {}, badge, make("code", {}, name), make("span", { className: "note" }, summary)),
    ...describe(description), ...parts);
}

function schemas(kind, document) {
  const all = Object.entries(document.components.schemas).map(([name, schema]) =>
    make("div", { className: "schema", id: anchor(kind, name) }, make("h4", {}, name), schemaList(schema, kind)));
  return [make("h3", {}, "Shapes"), ...all];
}

/** Follow `$ref`s inside a document, at most `hops` of them. */
function resolve(document, value, hops = 5) {
  for (; value.$ref && hops > 0; hops -= 1) {
    value = value.$ref.slice(2).split("/").reduce((node, key) => node[key.replaceAll("~1", "/")], document);
  }
  return value;
}

async function start() {
  setText(byTestId("client-example"), EXAMPLE);
  const [openapi, asyncapi] = await Promise.all([read("/openapi.yaml"), read("/asyncapi.yaml")]);
  showRest(openapi);
  showEvents(asyncapi);
}

start().catch((error) => {
  setText(byTestId("problem"), `The documents could not be read: ${error.message}`);
  byTestId("problem").hidden = false;
});
