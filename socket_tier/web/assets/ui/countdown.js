import { setText } from "./dom.js";

/** "Closes in 1:05", by the server's clock, while the open poll closes by itself. */
export function startCountdown(client, element) {
  const show = () => {
    const { state, closesAtMs } = client.poll ?? {};
    const leftS = Math.max(0, Math.ceil((closesAtMs - Date.now()) / 1000));
    setText(element, state === "open" && closesAtMs ? `Closes in ${clock(leftS)}` : "");
  };
  client.on("poll", show);
  setInterval(show, 250);
}

function clock(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  if (parts[0] === 0) parts.shift();
  return parts.map((part, index) => (index ? String(part).padStart(2, "0") : part)).join(":");
}
