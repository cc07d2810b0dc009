import { connect, remembered } from "../client.js";
import { Announcer } from "../ui/announcer.js";
import { Bars } from "../ui/bars.js";
import { copyWith } from "../ui/copy.js";
import { byTestId, plural, roomCodeFromAddress, setQuestion, setText, showView } from "../ui/dom.js";
import { showError } from "../ui/errors.js";
import { followLine } from "../ui/line.js";
import { showPollState, totalsNote } from "../ui/poll-state.js";
import { startControls } from "./host-controls.js";
import { followPeople } from "./host-people.js";

const roomCode = roomCodeFromAddress();
const client = connect();
const bars = new Bars(byTestId("bars"));
const announcer = new Announcer(byTestId("announcer"));

/** The token comes once, in the fragment, and is then kept here: an address bar is photographed and shared. */
function takeTokenFromAddress() {
  const token = decodeURIComponent(location.hash.slice(1));
  if (token) history.replaceState(null, "", location.pathname);
  return token || remembered(roomCode).hostToken;
}

function showInvitation() {
  const link = remembered(roomCode).joinUrl ?? `${location.origin}/j/${roomCode}`;
  setText(byTestId("room-code"), roomCode);
  byTestId("join-link").value = link;
  byTestId("screen-link").href = `/screen/${roomCode}`;
  document.title = `${roomCode} · Host · Votemill`;
  copyWith(byTestId("copy-link"), byTestId("join-link"));
}

function show(poll) {
  setQuestion(byTestId("question"), poll.question);
  showPollState(byTestId("poll-state"), poll);
  bars.show(poll);
  announcer.follow(poll);
  const votes = poll.votes.reduce((sum, count) => sum + count, 0);
  setText(byTestId("vote-count"), plural(votes, "vote"));
  setText(byTestId("participant-count"), `${poll.participantCount.toLocaleString("en")} connected`);
  setText(byTestId("totals-note"), totalsNote(poll));
}

async function start() {
  showInvitation();
  followLine(client);
  followPeople(client);
  client.on("poll", show);
  const setRole = startControls(client);
  client.on("membership", ({ phase, refusal }) => {
    if (phase === "joined") showView("poll");
    if (phase !== "refused") return;
    showError(byTestId("page-error"), refusal);
    showView("error");
  });
  const answer = await client.host({ roomCode, hostToken: takeTokenFromAddress() });
  setRole(answer.role ?? "host");
}

start().catch(() => {}); // A refusal is shown by the membership handler above.
