import { byTestId, setText } from "./dom.js";

const WORDS = {
  idle: "",
  connecting: "Connecting…",
  connected: "Live",
  reconnecting: "Connection lost. Reconnecting…",
  offline: "You are offline. The page catches up by itself as soon as the line is back.",
};

/** Keeps the small mark in the header and the banner under it true to the client's line. */
export function followLine(client) {
  const mark = byTestId("connection");
  const banner = byTestId("connection-banner");
  const show = () => {
    const { phase } = client.connection;
    const { phase: room, refusal } = client.membership;
    const isWaiting = phase === "connected" && room === "joining";
    mark.dataset.state = isWaiting ? "joining" : phase;
    setText(mark, isWaiting ? "Joining…" : shortWord(phase));
    const words = bannerWords(phase, isWaiting ? refusal : null, client);
    setText(banner, words);
    banner.hidden = words === "";
    banner.dataset.state = phase;
  };
  client.on("connection", show);
  client.on("membership", show);
  show();
}

function bannerWords(phase, refusal, client) {
  if (refusal) return `${refusal.message.replace(/[.\s]+$/, "")}. Trying again by itself…`;
  if (phase === "reconnecting" && client.connection.error) return `${client.connection.error} Reconnecting…`;
  return phase === "reconnecting" || phase === "offline" ? WORDS[phase] : "";
}

function shortWord(phase) {
  return { reconnecting: "Reconnecting…", offline: "Offline" }[phase] ?? WORDS[phase];
}
