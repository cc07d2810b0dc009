import { plural, setText } from "./dom.js";

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

const HIDDEN = {
  "after-vote": "Results show to those who have voted, and to all once voting is closed.",
  "after-close": "Results show once voting is closed.",
  host: "Only the host sees the results.",
};

/** A line for what is unusual about the totals just now, or an empty one. */
export function totalsNote(poll) {
  if (poll.paused) return "Live totals are paused. Votes still count, and the totals catch up by themselves.";
  if (shownState(poll) === "closed") return "The last votes are being counted…";
  return poll.hidden ? HIDDEN[poll.rules?.results] ?? "" : "";
}

/** What the host chose, in a line; empty where all is as usual. */
export function rulesNote({ rules = {} }) {
  const parts = [HIDDEN[rules.results]];
  if (rules.voteChange === false) parts.push("Votes can't be changed.");
  if (rules.closeAfterS) parts.push("Voting closes by itself.");
  if (rules.maxParticipants) parts.push(`At most ${plural(rules.maxParticipants, "person", "people")}.`);
  return parts.filter(Boolean).join(" ");
}
