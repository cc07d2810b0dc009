import { byTestId, setText } from "../ui/dom.js";
import { clearError, showError } from "../ui/errors.js";

const BUTTONS = { waiting: "open-button", open: "close-button", closed: "reopen-button" };

/** Open, close and reopen. Only the step that is possible now is offered. Returns the function that sets the role. */
export function startControls(client) {
  let isBusy = false;
  let isHost = false;

  function show() {
    const canAct = isHost && client.poll !== null;
    for (const [state, id] of Object.entries(BUTTONS)) {
      byTestId(id).hidden = !canAct || client.poll.state !== state;
      byTestId(id).disabled = isBusy || client.membership.phase !== "joined";
    }
  }

  async function change(newState, words) {
    isBusy = true;
    clearError(byTestId("control-error"));
    setText(byTestId("control-status"), words);
    show();
    try {
      const { pending } = await client.changeState(newState);
      setText(byTestId("control-status"), pending ? "Done. The database is away, so the final totals come later." : "");
    } catch (refusal) {
      setText(byTestId("control-status"), "");
      showError(byTestId("control-error"), refusal);
    }
    isBusy = false;
    show();
  }

  const ask = byTestId("reopen-dialog");
  byTestId("open-button").addEventListener("click", () => change("open", "Opening…"));
  byTestId("close-button").addEventListener("click", () => change("closed", "Closing…"));
  byTestId("reopen-button").addEventListener("click", () => ask.showModal());
  byTestId("reopen-cancel").addEventListener("click", () => ask.close());
  byTestId("reopen-confirm").addEventListener("click", () => {
    ask.close();
    change("open", "Opening again…");
  });
  client.on("poll", show);
  client.on("membership", show);

  return (role) => {
    isHost = role === "host";
    byTestId("viewer-note").hidden = isHost;
    show();
  };
}
