import { voteTotal } from "../client.js";
import { byTestId, make, optionLetter, plural, setQuestion, setText } from "../ui/dom.js";
import { showPollState, shownState, totalsNote } from "../ui/poll-state.js";

/** The participant's options as large buttons, the mark on the own choice, and the line that says how far it is. */
export function startBallotPaper(client) {
  let drawn = "";
  let buttons = [];

  function makeButtons(poll) {
    const wanted = JSON.stringify(poll.options);
    if (wanted === drawn) return;
    drawn = wanted;
    buttons = poll.options.map((text, index) => makeButton(text, index, () => client.vote(index)));
    byTestId("options").replaceChildren(...buttons.map(({ button }) => button));
  }

  function show() {
    const { poll, choice } = client;
    if (!poll) return;
    makeButtons(poll);
    byTestId("options").dataset.version = poll.version;
    setQuestion(byTestId("question"), poll.question);
    showPollState(byTestId("poll-state"), poll);
    // Before one has voted, others' votes would only lean on the choice.
    const hasChosen = (choice?.optionIndex ?? null) !== null;
    const showsTotals = !poll.hidden && (poll.state === "closed" || hasChosen);
    const stands = hasChosen && poll.rules?.voteChange === false;
    buttons.forEach((parts, index) => {
      const isMine = choice?.optionIndex === index;
      parts.button.disabled = poll.state !== "open" || (stands && !isMine);
      parts.button.setAttribute("aria-pressed", String(isMine));
      parts.button.dataset.mine = String(isMine);
      parts.button.dataset.totals = String(showsTotals);
      setText(parts.numbers, showsTotals ? `${poll.percentages[index]}%` : "");
      parts.fill.style.width = showsTotals ? `${poll.percentages[index]}%` : "0%";
    });
    showVoteState(poll, choice, client.connection.phase);
    setText(byTestId("vote-count"), showsTotals ? plural(voteTotal(poll), "vote") : "");
    setText(byTestId("totals-note"), totalsNote(poll));
  }

  client.on("poll", show);
  client.on("vote", show);
  client.on("connection", show);
}

function showVoteState(poll, choice, phase) {
  const line = byTestId("vote-state");
  line.dataset.state = choice?.state ?? "none";
  setText(line, voteWords(poll, choice, phase));
}

function voteWords(poll, choice, phase) {
  const state = shownState(poll);
  const stands = poll.rules?.voteChange === false;
  switch (choice?.state) {
    case "sending":
      if (phase !== "connected") return "Kept on this device. It is sent as soon as the line is back.";
      return choice.error ? `${choice.error.replace(/[.\s]+$/, "")}. Trying again…` : "Sending…";
    case "accepted":
      return "Accepted. It is safe, and being counted.";
    case "counted":
      return state === "open" && !stands ? "Counted. You can change it while voting is open." : "Counted.";
    case "refused":
      return `Not counted: ${choice.error}${choice.correlationId ? ` (reference ${choice.correlationId})` : ""}`;
    default:
      return { waiting: "The host opens voting in a moment.", open: `Tap one to vote.${stands ? " Your choice stands." : ""}` }[state] ?? "You did not vote.";
  }
}

function makeButton(text, index, onTap) {
  const numbers = make("span", { className: "choice-numbers", data: { testid: `percentage-${index}` } });
  const fill = make("span", { className: "choice-fill", aria: { hidden: "true" } });
  const button = make(
    "button",
    { type: "button", className: "choice", data: { option: index, testid: `option-${index}` } },
    fill,
    make("span", { className: "letter", aria: { hidden: "true" } }, optionLetter(index)),
    make("span", { className: "choice-text", data: { testid: `option-text-${index}` } }, text),
    numbers,
  );
  button.addEventListener("click", onTap);
  return { button, numbers, fill };
}
