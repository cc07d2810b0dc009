import { setText } from "./dom.js";

const WORDS = { waiting: "Not open yet", open: "Voting is open", closed: "Voting is closed", final: "Final result" };

/** waiting, open, closed (totals still settling) or final. */
export const shownState = (poll) => (poll.state === "closed" && poll.final ? "final" : poll.state);

/** The badge that says where the poll stands; the whole page takes its mood from the same word. */
export function showPollState(badge, poll) {
  const state = shownState(poll);
  badge.dataset.state = state;
  setText(badge, WORDS[state] ?? state);
  document.body.dataset.poll = state;
}

/** A line for what is unusual about the totals just now, or an empty one. */
export function totalsNote(poll) {
  if (poll.paused) return "Live totals are paused. Votes still count, and the totals catch up by themselves.";
  if (shownState(poll) === "closed") return "The last votes are being counted…";
  return "";
}
