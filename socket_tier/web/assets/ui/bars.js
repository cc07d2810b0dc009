import { leaders } from "../client.js";
import { make, optionLetter, setText } from "./dom.js";

/**
 * Draws one row per option: letter, text, count, percentage, bar. Rows are made once and then only updated, so that
 * bars glide from one width to the next and a screen reader keeps its place.
 */
export class Bars {
  #list;
  #rows = [];
  #drawn = "";

  constructor(list) {
    this.#list = list;
  }

  show(poll) {
    this.#makeRows(poll.options);
    this.#list.dataset.version = poll.version; // what scripts/page-lag compares with the database
    this.#list.dataset.hidden = Boolean(poll.hidden);
    const ahead = leaders(poll.votes);
    this.#rows.forEach((row, index) => {
      const votes = poll.votes[index] ?? 0;
      const percentage = poll.percentages[index] ?? 0;
      setText(row.count, votes.toLocaleString("en"));
      setText(row.percentage, `${percentage}%`);
      row.fill.style.width = `${percentage}%`;
      row.item.dataset.leading = String(ahead.includes(index));
    });
  }

  #makeRows(options) {
    const wanted = JSON.stringify(options);
    if (wanted === this.#drawn) return;
    this.#drawn = wanted;
    this.#rows = options.map(makeRow);
    this.#list.style.setProperty("--rows", options.length);
    this.#list.replaceChildren(...this.#rows.map((row) => row.item));
  }
}

function makeRow(text, index) {
  const count = make("span", { className: "bar-count", data: { testid: `votes-${index}` } }, "0");
  const percentage = make("span", { className: "bar-percentage", data: { testid: `percentage-${index}` } }, "0%");
  const fill = make("span", { className: "bar-fill" });
  const item = make(
    "li",
    { className: "bar", data: { option: index, testid: `bar-${index}` } },
    make("span", { className: "letter", aria: { hidden: "true" } }, optionLetter(index)),
    make("span", { className: "bar-text", data: { testid: `bar-text-${index}` } }, text),
    make("span", { className: "bar-numbers" }, count, spoken(" votes, "), percentage),
    make("span", { className: "bar-track", aria: { hidden: "true" } }, fill),
  );
  return { item, count, percentage, fill };
}

/** Two numbers side by side mean nothing to the ear. */
const spoken = (words) => make("span", { className: "visually-hidden" }, words);
