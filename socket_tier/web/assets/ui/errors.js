import { make, setText } from "./dom.js";

/** Show a refusal in the server's words, with the id that an operator can search for. */
export function showError(element, refusal) {
  element.replaceChildren(make("span", {}, sentence(refusal)));
  if (refusal.correlationId) {
    element.append(" ", make("small", { className: "reference" }, `Reference: ${refusal.correlationId}`));
  }
  element.hidden = false;
}

export function clearError(element) {
  element.hidden = true;
  setText(element, "");
}

/** Mark one field as wrong, with a text that a screen reader reads with it; an empty text marks it as right. */
export function markField(input, errorElement, text) {
  input.setAttribute("aria-invalid", text ? "true" : "false");
  setText(errorElement, text);
  errorElement.hidden = !text;
}

function sentence({ message, retryAfterS }) {
  if (retryAfterS === null || retryAfterS === undefined) return message;
  return `${message.replace(/[.\s]+$/, "")}. Try again in ${Math.max(1, Math.ceil(retryAfterS))} s.`;
}
