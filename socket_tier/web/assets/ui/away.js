import { voteTotal } from "../client.js";
import { plural } from "./dom.js";
import { shownState } from "./poll-state.js";

const WORTH_TELLING_MS = 4000;
const CHANGES = {
  open: "voting was opened", closed: "voting was closed", final: "voting was closed: this is the result", waiting: "the poll was reset",
};

/**
 * Tells what has happened while the line was cut, or the phone locked: `say` gets a sentence, or "" while nothing is to be
 * told. What was seen last is compared with what is true now.
 */
export function tellWhatWasMissed(client, say) {
  let seen = null;

  const leave = () => {
    if (!client.poll || seen) return;
    seen = { ...pictureOf(client.poll), atMs: Date.now() };
  };
  const comeBack = () => {
    if (!seen || client.membership.phase !== "joined" || document.visibilityState === "hidden") return;
    const sentence = difference(seen, client.poll);
    if (sentence) say(sentence);
    seen = null;
  };
  client.on("membership", ({ phase }) => (phase === "joined" ? comeBack() : leave()));
  client.on("vote", ({ state }) => {
    if (state === "sending" && !seen) say("");
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") return leave();
    // A line that the lock has cut shows a moment after the unlocking; the news then come with the rejoin.
    setTimeout(comeBack, 500);
  });
}

function difference(seen, poll) {
  const awayMs = Date.now() - seen.atMs;
  const now = pictureOf(poll);
  const parts = [];
  if (now.state !== seen.state) parts.push(CHANGES[now.state]);
  if (now.total > seen.total) parts.push(`${plural(now.total - seen.total, "vote")} came in`);
  if (parts.length === 0 || (now.state === seen.state && awayMs < WORTH_TELLING_MS)) return "";
  return `While you were away: ${parts.join(", and ")}.`;
}

const pictureOf = (poll) => ({ state: shownState(poll), total: voteTotal(poll) });
