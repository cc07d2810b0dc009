import { setText } from "./dom.js";

/** Lets a button copy a read-only field, and says so for two seconds. */
export function copyWith(button, field) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    setText(button, (await copy(field)) ? "Copied" : "Press Ctrl+C");
    setTimeout(() => setText(button, label), 2000);
  });
}

async function copy(field) {
  try {
    await navigator.clipboard.writeText(field.value);
    return true;
  } catch {
    // The clipboard interface is missing on plain http; the old way still works there.
    field.select();
    return document.execCommand("copy");
  }
}
