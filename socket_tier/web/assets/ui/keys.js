/**
 * Single-letter shortcuts, as {letter: the button or link that it presses}. Silent while somebody types or a dialog asks,
 * and for what is hidden or switched off.
 */
export function startKeys(keys) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest?.("textarea, select, input:not([readonly])") || document.querySelector("dialog[open]")) return;
    const pressed = [keys[event.key.toLowerCase()] ?? []].flat().find((element) => !element.disabled && element.checkVisibility());
    if (!pressed) return;
    event.preventDefault();
    pressed.click();
  });
}
