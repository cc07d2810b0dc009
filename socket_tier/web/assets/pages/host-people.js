import { byTestId, make, setText } from "../ui/dom.js";

const SHOWN = 60;

/** Who came while this page was open, newest first. In a large room only the newest are drawn. */
export function followPeople(client) {
  const present = new Set();
  let isDue = false;

  // A hall arrives within a second: draw once per frame, not once per person.
  function drawSoon() {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      draw();
    });
  }

  function draw() {
    const newest = [...present].slice(-SHOWN).reverse();
    byTestId("people").replaceChildren(...newest.map((nickname) => make("li", {}, nickname)));
    const more = present.size - newest.length;
    setText(byTestId("people-more"), more > 0 ? `and ${more.toLocaleString("en")} more` : "");
    byTestId("people-empty").hidden = present.size > 0;
  }

  client.on("arrived", ({ nickname }) => {
    present.add(nickname);
    drawSoon();
  });
  client.on("departed", ({ nickname }) => {
    present.delete(nickname);
    drawSoon();
  });
  draw();
}
