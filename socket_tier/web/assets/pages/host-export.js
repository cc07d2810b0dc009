import { fetchExport, remembered } from "../client.js";
import { byTestId, make } from "../ui/dom.js";
import { clearError, showError } from "../ui/errors.js";

/** Lets the host keep the results as a file. The token travels in a header, so it needs more than a link. */
export function startExport(roomCode) {
  for (const form of ["csv", "json"]) {
    const button = byTestId(`export-${form}`);
    button.addEventListener("click", async () => {
      button.disabled = true;
      clearError(byTestId("export-error"));
      try {
        save(await fetchExport(roomCode, remembered(roomCode).hostToken, form), `votemill-${roomCode}.${form}`);
      } catch (refusal) {
        showError(byTestId("export-error"), refusal);
      }
      button.disabled = false;
    });
  }
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
