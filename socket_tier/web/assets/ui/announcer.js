import { leaders, voteTotal } from "../client.js";
import { plural, setText } from "./dom.js";
import { shownState } from "./poll-state.js";

const QUIET_MS = 15000;

/**
 * Reads the totals to a screen reader, and is not chatty: when the poll's state changes, and otherwise at most every
 * fifteen seconds, the leading option and the number of votes.
 */
export class Announcer {
  #region;
  #lastState = "";
  #lastSpokeMs = 0;
  #timer = null;
  #poll = null;

  constructor(region) {
    this.#region = region;
  }

  follow(poll) {
    this.#poll = poll;
    const state = shownState(poll);
    if (state !== this.#lastState) {
      this.#lastState = state;
      this.#speak();
    } else if (!this.#timer) {
      this.#timer = setTimeout(() => this.#speak(), Math.max(0, this.#lastSpokeMs + QUIET_MS - Date.now()));
    }
  }

  #speak() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#lastSpokeMs = Date.now();
    setText(this.#region, summary(this.#poll));
  }
}

function summary(poll) {
  const total = voteTotal(poll);
  const ahead = leaders(poll.votes).map((index) => `${poll.options[index]}, ${poll.percentages[index]} percent`);
  const opening = { waiting: "Voting is not open yet.", open: "", closed: "Voting is closed.", final: "Final result." };
  const standing = !total ? "No votes yet."
    : ahead.length ? `${plural(total, "vote")}. In front: ${ahead.join("; ")}.` : `${plural(total, "vote")}.`;
  return `${opening[shownState(poll)]} ${standing}`.trim();
}
