import { correction, generate } from "../vendor/lean-qr.mjs";

const QUIET = 3; // modules of white around it
const SVG = "http://www.w3.org/2000/svg";

/** Draws a link as a QR code, dark on light in both colour schemes, because cameras expect that. */
export function showQr(element, link) {
  const code = generate(link, { minCorrectionLevel: correction.M });
  const side = [...Array(code.size).keys()];
  const dark = side.flatMap((y) => side.filter((x) => code.get(x, y)).map((x) => `M${x} ${y}h1v1h-1z`));
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", [-QUIET, -QUIET, code.size + 2 * QUIET, code.size + 2 * QUIET].join(" "));
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `QR code of ${link}`);
  svg.setAttribute("shape-rendering", "crispEdges");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", dark.join(""));
  svg.append(path);
  element.dataset.link = link;
  element.replaceChildren(svg);
}
