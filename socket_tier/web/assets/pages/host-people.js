import { fetchResults, remembered } from "../client.js";
import { byTestId, make, setText, soon } from "../ui/dom.js";
import { clearError, showError } from "../ui/errors.js";

const SHOWN = 60;
const REDRAW_MS = 200; // names that fly by faster can't be read
const NAMES_SHOWN = 500;
const NAMES_EVERY_MS = 3000;

/** Who came while this page was open, newest first. In a large room only the newest are drawn. */
export function followPeople(client) {
  const present = new Set();
  const drawSoon = soon(() => {
    const newest = [...present].slice(-SHOWN).reverse();
    byTestId("people").replaceChildren(...newest.map((nickname) => make("li", {}, nickname)));
    const more = present.size - newest.length;
    setText(byTestId("people-more"), more > 0 ? `and ${more.toLocaleString("en")} more` : "");
    byTestId("people-empty").hidden = present.size > 0;
  }, REDRAW_MS);
  client.on("arrived", ({ nickname }) => {
    present.add(nickname);
    drawSoon();
  });
  client.on("departed", ({ nickname }) => {
    present.delete(nickname);
    drawSoon();
  });
}

/** The names of who has voted and who has not: asked for only while they are shown, and not what anybody chose. */
export function startNames(client, roomCode) {
  const button = byTestId("names-button");
  let isShown = false;
  let isAsking = false;
  let isStale = false; // something has changed since the answer that is shown was asked for

  async function read() {
    [isAsking, isStale] = [true, false];
    try {
      show(await fetchResults(roomCode, remembered(roomCode).hostToken));
      clearError(byTestId("names-error"));
    } catch (refusal) {
      showError(byTestId("names-error"), refusal);
    }
    // Not more often, however fast votes come in; what came in meanwhile is asked for then.
    setTimeout(() => {
      isAsking = false;
      follow();
    }, NAMES_EVERY_MS);
  }

  function follow() {
    if (isShown && isStale && !isAsking) read();
  }

  button.addEventListener("click", () => {
    isShown = !isShown;
    button.setAttribute("aria-expanded", String(isShown));
    setText(button, isShown ? "Hide names" : "Who has voted?");
    byTestId("names").hidden = !isShown;
    isStale = true;
    follow();
  });
  client.on("poll", () => {
    isStale = true;
    follow();
  });
}

function show({ participants }) {
  const named = participants.filter(({ nickname }) => nickname !== null);
  for (const [id, isVoter] of [["voted", true], ["not-voted", false]]) {
    const names = named.filter(({ optionIndex }) => (optionIndex !== null) === isVoter).map(({ nickname }) => nickname);
    names.sort((one, other) => one.localeCompare(other));
    byTestId(id).replaceChildren(...names.slice(0, NAMES_SHOWN).map((name) => make("li", {}, name)));
    setText(byTestId(`${id}-count`), names.length.toLocaleString("en") + (names.length > NAMES_SHOWN ? ", not all shown" : ""));
  }
}
