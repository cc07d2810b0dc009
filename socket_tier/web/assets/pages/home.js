import { byTestId, isRoomCode, make, tidyCode } from "../ui/dom.js";
import { markField } from "../ui/errors.js";
import { dropPoll, ownPolls } from "../ui/own-polls.js";
import { startCreateForm } from "./create-form.js";

function startJoinForm() {
  const form = byTestId("join-form");
  const input = byTestId("join-code");
  const error = byTestId("join-code-error");
  input.addEventListener("input", () => markField(input, error, ""));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const code = tidyCode(input.value);
    if (isRoomCode(code)) return location.assign(`/j/${code}`);
    markField(input, error, "A code has six letters and digits, such as ABC234.");
    input.focus();
  });
}

function showOwnPolls() {
  const polls = ownPolls();
  byTestId("own-polls").hidden = polls.length === 0;
  byTestId("own-list").replaceChildren(...polls.map(({ roomCode, question }) => {
    const remove = make("button", { type: "button", className: "quiet remove", aria: { label: `Take ${roomCode} off the list` } }, "✕");
    remove.addEventListener("click", () => {
      dropPoll(roomCode);
      showOwnPolls();
    });
    const link = make("a", { href: `/host/${roomCode}`, data: { testid: `own-${roomCode}` } },
      make("strong", {}, roomCode), make("span", {}, question));
    return make("li", {}, link, remove);
  }));
}

showOwnPolls();
addEventListener("pageshow", showOwnPolls); // also when one comes back to a page that the browser kept
startJoinForm();
startCreateForm();
