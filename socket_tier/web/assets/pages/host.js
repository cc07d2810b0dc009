import { connect, remembered, voteTotal } from "../client.js";
import { Announcer } from "../ui/announcer.js";
import { Bars } from "../ui/bars.js";
import { copyWith } from "../ui/copy.js";
import { startCountdown } from "../ui/countdown.js";
import { byTestId, plural, roomCodeFromAddress, setQuestion, setText, showView, soon } from "../ui/dom.js";
import { showError } from "../ui/errors.js";
import { startKeys } from "../ui/keys.js";
import { followLine } from "../ui/line.js";
import { keepPoll } from "../ui/own-polls.js";
import { rulesNote, showPollState, totalsNote } from "../ui/poll-state.js";
import { showQr } from "../ui/qr.js";
import { startControls } from "./host-controls.js";
import { startExport } from "./host-export.js";
import { followPeople, startNames } from "./host-people.js";

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
  showQr(byTestId("qr"), link);
  byTestId("screen-link").href = `/screen/${roomCode}`;
  document.title = `${roomCode} · Host · Votemill`;
  copyWith(byTestId("copy-link"), byTestId("join-link"));
}

function startShortcuts() {
  startKeys({
    o: ["open-button", "close-button", "reopen-button"].map(byTestId),
    c: byTestId("copy-link"),
    s: byTestId("screen-link"),
    n: byTestId("names-button"),
  });
}

function show(poll) {
  setQuestion(byTestId("question"), poll.question);
  showPollState(byTestId("poll-state"), poll);
  bars.show(poll);
  announcer.follow(poll);
  setText(byTestId("vote-count"), plural(voteTotal(poll), "vote"));
  setText(byTestId("participant-count"), `${poll.participantCount.toLocaleString("en")} connected`);
  setText(byTestId("totals-note"), totalsNote(poll));
  setText(byTestId("rules-note"), rulesNote(poll));
}

async function start() {
  showInvitation();
  followLine(client);
  followPeople(client);
  startNames(client, roomCode);
  startExport(roomCode);
  startShortcuts();
  startCountdown(client, byTestId("countdown"));
  client.on("poll", soon(() => show(client.poll)));
  const setRole = startControls(client);
  client.on("membership", ({ phase, refusal }) => {
    if (phase === "joined") showView("poll");
    if (phase !== "refused") return;
    showError(byTestId("page-error"), refusal);
    showView("error");
  });
  const answer = await client.host({ roomCode, hostToken: takeTokenFromAddress() });
  const role = answer.role ?? "host";
  setRole(role);
  if (role === "host") keepPoll(roomCode, answer.poll.question); // for the list of the start page
  for (const id of ["host-only", "export"]) byTestId(id).hidden = role !== "host" || !remembered(roomCode).hostToken;
}

start().catch(() => {}); // A refusal is shown by the membership handler above.
