import { recall, remember } from "../client/storage.js";

const KEPT = 20;
const LIST = ["own-polls", "all"];

/** The polls that this browser is the host of, newest first: {roomCode, question}. */
export const ownPolls = () => recall(...LIST) ?? [];

/** Put a poll on the list, or leave it where it is. */
export function keepPoll(roomCode, question) {
  const polls = ownPolls();
  if (polls.some((poll) => poll.roomCode === roomCode && poll.question === question)) return;
  remember(...LIST, [{ roomCode, question }, ...polls.filter((poll) => poll.roomCode !== roomCode)].slice(0, KEPT));
}

export const dropPoll = (roomCode) => remember(...LIST, ownPolls().filter((poll) => poll.roomCode !== roomCode));
