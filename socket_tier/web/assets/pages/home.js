import { byTestId, isRoomCode, tidyCode } from "../ui/dom.js";
import { markField } from "../ui/errors.js";
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

startJoinForm();
startCreateForm();
