/** Small helpers to build and fill the page. Text from people only ever goes through textContent. */

export const byTestId = (id) => document.querySelector(`[data-testid="${id}"]`);

/** Make an element: properties, `data` and `aria` attributes, then children (strings become text nodes). */
export function make(tag, { data = {}, aria = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  Object.assign(element.dataset, data);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  element.append(...children);
  return element;
}

/** Set text only when it differs: a live region speaks up on every write. */
export function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/** Set the question; a long one gets smaller letters rather than pushing the options off the page. */
export function setQuestion(element, text) {
  setText(element, text);
  element.dataset.length = text.length > 220 ? "long" : text.length > 90 ? "medium" : "short";
}

/** Show one of several sections, named by their `data-view`. */
export function showView(name) {
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== name;
}

/** The room code in this page's address, as the second part of its path. */
export function roomCodeFromAddress() {
  return tidyCode(decodeURIComponent(location.pathname.split("/")[2] ?? ""));
}

export const tidyCode = (text) => text.replace(/[\s-]/g, "").toUpperCase();

export const isRoomCode = (text) => /^[2-9A-HJ-NP-Z]{6}$/.test(text);

export const optionLetter = (index) => String.fromCharCode(65 + index);

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** Draw a moment after the first of many changes, and once for all of them: a hall arrives within a second. */
export function soon(draw, waitMs = 0) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    setTimeout(() => requestAnimationFrame(() => {
      isDue = false;
      draw();
    }), waitMs);
  };
}
