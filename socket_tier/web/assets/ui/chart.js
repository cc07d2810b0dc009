/** Draws lines over time as SVG, with a legend that shows the newest value, or the one under the pointer. */
import { make, setText } from "./dom.js";

const WIDTH = 420, HEIGHT = 150, LEFT = 46, RIGHT = 4, TOP = 8, BOTTOM = 20;
const COLOURS = 10;
const IN_HEADING = new Set(["1/s", "ms", "s"]); // in place of at each step of the scale

/** @param graph {title, unit, says, lines: [{name, points: [[seconds, value or null]]}]} */
export function drawGraph({ title, unit, says, lines }) {
  const shown = lines.filter(({ points }) => points.some(([, value]) => value !== null));
  const figure = make("figure", { className: "card graph", data: { testid: "graph" } }, make("h2", { textContent: IN_HEADING.has(unit) ? `${title}, ${unit}` : title }));
  if (shown.length === 0) {
    figure.append(make("div", { className: "no-data", textContent: "no data" }), make("p", { textContent: says }));
    return figure;
  }
  const { svg, at } = drawLines(shown, unit);
  const values = shown.map(() => make("span"));
  const legend = make("ul", { className: "legend" }, ...shown.map(({ name }, index) =>
    make("li", { data: { line: index % COLOURS } }, `${name} `, values[index])));
  const tell = (find) => shown.forEach(({ points }, index) => setText(values[index], written(find(points), unit)));
  const newest = (points) => points.findLast(([, value]) => value !== null)[1];
  tell(newest);
  const cursor = draw(svg, "line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const { x, position } = at(((event.clientX - box.left) / box.width) * WIDTH);
    for (const name of ["x1", "x2"]) cursor.setAttribute(name, x);
    cursor.setAttribute("visibility", "visible");
    tell((points) => points[position]?.[1] ?? null);
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    tell(newest);
  });
  figure.append(svg, legend, make("p", { textContent: says }));
  return figure;
}

function drawLines(lines, unit) {
  const times = lines[0].points.map(([at]) => at);
  const [first, last] = [times[0], times.at(-1)];
  const top = roundUp(Math.max(...lines.flatMap(({ points }) => points.map(([, value]) => value ?? 0))));
  const x = (at) => LEFT + ((WIDTH - LEFT - RIGHT) * (at - first)) / (last - first || 1);
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * Math.max(0, value)) / top;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  for (const value of [0, top / 2, top]) {
    draw(svg, "line", { class: "grid-line", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) });
    draw(svg, "text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }).textContent = written(value, IN_HEADING.has(unit) ? "" : unit);
  }
  draw(svg, "text", { x: LEFT, y: HEIGHT - 5 }).textContent = clock(first, last - first);
  draw(svg, "text", { x: WIDTH - RIGHT, y: HEIGHT - 5, "text-anchor": "end" }).textContent = clock(last, last - first);
  lines.forEach(({ points }, index) => {
    const line = draw(svg, "path", { class: "line", d: path(points, x, y) });
    line.dataset.line = index % COLOURS;
  });
  const step = (last - first) / (times.length - 1 || 1);
  const at = (pointer) => {
    const position = Math.round(((pointer - LEFT) / (WIDTH - LEFT - RIGHT)) * (times.length - 1));
    const inside = Math.min(Math.max(position, 0), times.length - 1);
    return { x: x(first + inside * step), position: inside };
  };
  return { svg, at };
}

/** A line that breaks where nothing is known; a value between two gaps is a dot. */
function path(points, x, y) {
  let text = "", drawing = false;
  for (const [at, value] of points) {
    if (value !== null) text += `${drawing ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}${drawing ? "" : "h0"}`;
    drawing = value !== null;
  }
  return text;
}

function draw(svg, name, attributes) {
  const element = document.createElementNS(svg.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  svg.append(element);
  return element;
}

/** The next of 1, 2, 5, 10, ... */
function roundUp(value) {
  if (value <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * unit).find((rounded) => rounded >= value * 0.999);
}

export function written(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "share") return `${short(value * 100)} %`;
  if (unit === "bytes") return `${short(value / 2 ** 20)} MB`;
  return unit ? `${short(value)} ${unit}` : short(value);
}

function short(value) {
  if (Math.abs(value) >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  if (Math.abs(value) >= 1e4) return `${Number((value / 1e3).toPrecision(3))} k`;
  return String(Number(value.toPrecision(3)));
}

function clock(seconds, span) {
  const date = new Date(seconds * 1000);
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return span > 86400 ? `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}` : time;
}
