import { connect, voteTotal } from "../client.js";
import { Announcer } from "../ui/announcer.js";
import { Bars } from "../ui/bars.js";
import { startCountdown } from "../ui/countdown.js";
import { byTestId, roomCodeFromAddress, setQuestion, setText, showView } from "../ui/dom.js";
import { showError } from "../ui/errors.js";
import { followLine } from "../ui/line.js";
import { showPollState, totalsNote } from "../ui/poll-state.js";
import { showQr } from "../ui/qr.js";

const roomCode = roomCodeFromAddress();
const client = connect();
const bars = new Bars(byTestId("bars"));
const announcer = new Announcer(byTestId("announcer"));

function show(poll) {
  setQuestion(byTestId("question"), poll.question);
  showPollState(byTestId("poll-state"), poll);
  bars.show(poll);
  announcer.follow(poll);
  setText(byTestId("participant-count"), poll.participantCount.toLocaleString("en"));
  setText(byTestId("vote-count"), voteTotal(poll).toLocaleString("en"));
  const note = byTestId("totals-note");
  note.dataset.paused = Boolean(poll.paused);
  setText(note, totalsNote(poll));
}

document.title = `${roomCode} · Votemill`;
setText(byTestId("room-code"), roomCode);
setText(byTestId("join-host"), location.host);
showQr(byTestId("qr"), `${location.origin}/j/${roomCode}`);
followLine(client);
startCountdown(client, byTestId("countdown"));
client.on("poll", show);
client.on("membership", ({ phase, refusal }) => {
  if (phase === "joined") showView("poll");
  if (phase !== "refused") return;
  showError(byTestId("page-error"), refusal);
  showView("error");
});
client.watch({ roomCode }).catch(() => {}); // A refusal is shown by the handler above.
