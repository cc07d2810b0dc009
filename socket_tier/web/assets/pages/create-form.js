import { createPoll } from "../client.js";
import { remember } from "../client/storage.js";
import { byTestId, make, optionLetter, plural, setText } from "../ui/dom.js";
import { clearError, markField, showError } from "../ui/errors.js";

const LIMITS = { question: 500, option: 100, fewest: 2, most: 5 };

/** The form that makes a poll; its checks are the server's, so that mistakes are seen before they are sent. */
export function startCreateForm() {
  const form = byTestId("create-form");
  addOption();
  addOption();
  byTestId("add-option").addEventListener("click", () => addOption().focus());
  byTestId("question").addEventListener("input", (event) => {
    showCount(event.target.value);
    checkQuestion({ isTyping: true });
  });
  byTestId("question").addEventListener("blur", () => checkQuestion({ isTyping: true }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
}

async function submit() {
  const problem = byTestId("create-error");
  clearError(problem);
  const isRight = [checkQuestion(), checkOptions(), checkMost()].every(Boolean);
  if (!isRight) return document.querySelector('[data-testid="create-form"] [aria-invalid="true"]').focus();
  setBusy(true);
  try {
    const [question, options] = [trimmed(byTestId("question")), inputs().map(trimmed)];
    goToHostPage(await createPoll({ question, options, rules: chosenRules() }));
  } catch (refusal) {
    showError(problem, refusal);
    setBusy(false);
  }
}

/** A rule that is as usual is left out; undefined when all are: a node of before knows of none. */
function chosenRules() {
  const [results, seconds, most] = ["rule-results", "rule-close", "rule-most"].map((id) => byTestId(id).value);
  const rules = {
    ...(results !== "always" && { results }),
    ...(!byTestId("rule-change").checked && { voteChange: false }),
    ...(seconds && { closeAfterS: Number(seconds) }),
    ...(most.trim() && { maxParticipants: Number(most) }),
  };
  return Object.keys(rules).length ? rules : undefined;
}

function checkMost() {
  const input = byTestId("rule-most");
  const isRight = /^\s*([1-9]\d*)?\s*$/.test(input.value) && input.validity.valid;
  markField(input, byTestId("rule-most-error"), isRight ? "" : "Please write a whole number, or nothing.");
  if (!isRight) byTestId("rules").open = true;
  return isRight;
}

function goToHostPage({ roomCode, hostToken, joinUrl }) {
  const isKept = remember("host", roomCode, { hostToken, joinUrl });
  // A browser that keeps nothing gets the token along in the fragment, which never reaches a server or its logs.
  location.assign(`/host/${roomCode}${isKept ? "" : `#${encodeURIComponent(hostToken)}`}`);
}

/** While one types, what is still empty is no mistake yet. */
function checkQuestion({ isTyping = false } = {}) {
  const length = lengthOf(trimmed(byTestId("question")));
  const text = length === 0 ? (isTyping ? "" : "Please write a question.")
    : length > LIMITS.question ? `The question is ${plural(length - LIMITS.question, "character")} too long.` : "";
  markField(byTestId("question"), byTestId("question-error"), text);
  return text === "";
}

function checkOptions({ isTyping = false } = {}) {
  const texts = inputs().map(trimmed);
  const problems = texts.map((text, index) => {
    if (text === "") return isTyping ? "" : `Please fill in this option${texts.length > LIMITS.fewest ? ", or remove it" : ""}.`;
    if (lengthOf(text) > LIMITS.option) return `An option has at most ${LIMITS.option} characters.`;
    return texts.indexOf(text) < index ? "This option is there already." : "";
  });
  inputs().forEach((input, index) => markField(input, errorOf(input), problems[index]));
  return problems.every((text) => text === "");
}

function addOption() {
  const number = inputs().length;
  const input = make("input", { type: "text", autocomplete: "off", placeholder: "Option" });
  const error = make("p", { className: "field-error", hidden: true });
  const up = make("button", { type: "button", className: "quiet move", data: { move: "up" } }, "↑");
  const down = make("button", { type: "button", className: "quiet move", data: { move: "down" } }, "↓");
  const remove = make("button", { type: "button", className: "quiet remove" }, "✕");
  const letter = make("span", { className: "letter", aria: { hidden: "true" } });
  const row = make("li", { className: "option-row" }, letter, input, up, down, remove, error);
  remove.addEventListener("click", () => {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    renumber();
    checkOptions({ isTyping: true });
    next?.querySelector("input").focus();
  });
  up.addEventListener("click", () => move(row, row.previousElementSibling, up));
  down.addEventListener("click", () => move(row, row.nextElementSibling?.nextElementSibling ?? null, down));
  input.addEventListener("input", () => checkOptions({ isTyping: true }));
  input.addEventListener("keydown", (event) => {
    const button = event.altKey && { ArrowUp: up, ArrowDown: down }[event.key];
    if (!button || button.disabled) return;
    event.preventDefault();
    button.click();
    input.focus();
  });
  byTestId("option-list").append(row);
  renumber();
  return inputs()[number];
}

function move(row, before, button) {
  byTestId("option-list").insertBefore(row, before);
  renumber();
  checkOptions({ isTyping: true });
  (button.disabled ? row.querySelector("input") : button).focus();
}

/** Letters, labels and test ids follow the order; two options always stay. */
function renumber() {
  const rows = [...byTestId("option-list").children];
  rows.forEach((row, index) => {
    const [input, remove, error] = [row.querySelector("input"), row.querySelector(".remove"), row.querySelector("p")];
    for (const [way, isLast] of [["up", index === 0], ["down", index === rows.length - 1]]) {
      const button = row.querySelector(`[data-move="${way}"]`);
      button.disabled = isLast;
      button.dataset.testid = `move-${way}-${index}`;
      button.setAttribute("aria-label", `Move option ${optionLetter(index)} ${way}`);
    }
    row.dataset.option = index;
    setText(row.querySelector(".letter"), optionLetter(index));
    input.dataset.testid = `option-input-${index}`;
    input.setAttribute("aria-label", `Option ${optionLetter(index)}`);
    error.id = `option-error-${index}`;
    error.dataset.testid = `option-error-${index}`;
    input.setAttribute("aria-describedby", error.id);
    remove.dataset.testid = `remove-option-${index}`;
    remove.setAttribute("aria-label", `Remove option ${optionLetter(index)}`);
    remove.hidden = rows.length <= LIMITS.fewest;
  });
  byTestId("add-option").hidden = rows.length >= LIMITS.most;
}

function showCount(text) {
  const left = LIMITS.question - lengthOf(text.trim());
  setText(byTestId("question-count"), left < 100 ? `${left} left` : "");
}

function setBusy(isBusy) {
  const button = byTestId("create-button");
  button.disabled = isBusy;
  setText(button, isBusy ? "Creating…" : "Create poll");
}

const inputs = () => [...document.querySelectorAll('[data-testid="option-list"] input')];
const errorOf = (input) => input.parentElement.querySelector(".field-error");
const trimmed = (input) => input.value.trim();
// Characters as people count them, and as the server does: an emoji is one, not two.
const lengthOf = (text) => [...text].length;
