/** The operators' graphs: asked of the node every ten seconds, with the admin token of this tab. */
import { fetchGraphs } from "../client/rest.js";
import { drawGraph } from "../ui/chart.js";
import { byTestId, make, setText, showView } from "../ui/dom.js";

const REFRESH_MS = 10_000;
const TOKEN = "votemill.admin-token";

const minutes = byTestId("minutes");
let board = location.hash.slice(1);
let asking = 0;
let timer;

async function show() {
  clearTimeout(timer);
  const token = sessionStorage.getItem(TOKEN);
  if (!token) return showView("token");
  const mine = ++asking; // an answer to an earlier question comes too late
  try {
    const answer = await fetchGraphs(token, board, minutes.value);
    if (mine !== asking) return;
    showBoard(answer);
    tell("");
  } catch (refusal) {
    if (mine !== asking) return;
    tell(refusal.message);
    if (refusal.code === "not_admin") {
      sessionStorage.removeItem(TOKEN);
      return showView("token");
    }
    if (refusal.code === "invalid_board") board = "";
  }
  timer = setTimeout(show, REFRESH_MS);
}

function showBoard({ board: shown, boards, graphs }) {
  showView("board");
  byTestId("boards").replaceChildren(...boards.map(({ id, title }) => {
    const button = make("button", { textContent: title, aria: id === shown ? { current: "page" } : {} });
    button.addEventListener("click", () => location.assign(`#${id}`));
    return button;
  }));
  byTestId("graphs").replaceChildren(...graphs.map(drawGraph));
  setText(byTestId("updated"), `as of ${new Date().toLocaleTimeString("en-GB")}`);
}

function tell(problem) {
  const element = byTestId("problem");
  element.hidden = !problem;
  setText(element, problem);
}

byTestId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byTestId("token").value.trim());
  show();
});
minutes.addEventListener("change", show);
addEventListener("hashchange", () => {
  board = location.hash.slice(1);
  show();
});
show();
