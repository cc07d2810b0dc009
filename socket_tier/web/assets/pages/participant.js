import { connect, fetchPoll, remembered } from "../client.js";
import { tellWhatWasMissed } from "../ui/away.js";
import { startCountdown } from "../ui/countdown.js";
import { byTestId, roomCodeFromAddress, setQuestion, setText, showView } from "../ui/dom.js";
import { clearError, markField, showError } from "../ui/errors.js";
import { followLine } from "../ui/line.js";
import { startBallotPaper } from "./ballot-paper.js";

const roomCode = roomCodeFromAddress();
const client = connect();

function showGone(refusal) {
  showError(byTestId("page-error"), refusal);
  showView("error");
}

function showForm(refusal) {
  const input = byTestId("nickname");
  setBusy(false);
  showView("join");
  if (!refusal) return;
  markField(input, byTestId("nickname-error"), "");
  showError(byTestId("nickname-error"), refusal);
  input.setAttribute("aria-invalid", "true");
  input.select();
}

function setBusy(isBusy) {
  byTestId("join-button").disabled = isBusy;
  setText(byTestId("join-button"), isBusy ? "Joining…" : "Join");
}

async function join(nickname) {
  setBusy(true);
  clearError(byTestId("nickname-error"));
  setText(byTestId("who"), nickname);
  try {
    await client.join({ roomCode, nickname });
  } catch (refusal) {
    if (isAboutThePoll(refusal)) showGone(refusal);
    else showForm(refusal);
  }
}

/** Asking for another nickname would not help. */
const isAboutThePoll = ({ message, code }) => code === "poll_not_found" || /^(poll not found|invalid room code)/i.test(message);

function startForm() {
  byTestId("nickname").addEventListener("input", (event) => markField(event.target, byTestId("nickname-error"), ""));
  byTestId("nickname-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const nickname = byTestId("nickname").value.trim();
    const length = [...nickname].length;
    if (length >= 1 && length <= 50) return join(nickname);
    markField(byTestId("nickname"), byTestId("nickname-error"),
      length ? "A nickname has at most 50 characters." : "Please write a nickname.");
    byTestId("nickname").focus();
  });
}

/** Show what one is about to join; a missing poll is better known before a nickname is typed. */
async function preview() {
  try {
    const { question } = await fetchPoll(roomCode);
    setQuestion(byTestId("preview-question"), question);
  } catch (refusal) {
    if (!refusal.retryable && isAboutThePoll(refusal)) return showGone(refusal);
    // The form works without the preview, and the join says what is wrong.
  }
  showForm();
  byTestId("nickname").focus();
}

async function start() {
  document.title = `${roomCode} · Votemill`;
  setText(byTestId("room-code"), roomCode);
  followLine(client);
  startForm();
  startBallotPaper(client);
  startCountdown(client, byTestId("countdown"));
  tellWhatWasMissed(client, (sentence) => setText(byTestId("away"), sentence));
  client.on("membership", ({ phase, refusal }) => {
    if (phase === "joined") showView("poll");
    // After a reconnect the server may say that the poll is gone, or that the token is void.
    if (phase === "refused" && client.poll) isAboutThePoll(refusal) ? showGone(refusal) : showForm(refusal);
  });
  const { nickname, participantToken } = remembered(roomCode);
  if (nickname) byTestId("nickname").value = nickname;
  if (nickname && participantToken) await join(nickname);
  else await preview();
}

start();
