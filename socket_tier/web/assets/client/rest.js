import { Refusal } from "./refusal.js";

const ANSWER_WITHIN_MS = 15000;

/** @returns {roomCode, question, options, state, poll, hostToken, joinUrl, hostUrl} @throws Refusal */
export function createPoll({ question, options }) {
  const body = JSON.stringify({ question, options });
  return call("/api/polls", { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

/** @returns the poll with its totals @throws Refusal */
export function fetchPoll(roomCode) {
  return call(`/api/polls/${encodeURIComponent(roomCode)}`);
}

/** @returns {board, boards, graphs} @throws Refusal */
export function fetchGraphs(adminToken, board, minutes) {
  const query = new URLSearchParams({ minutes, ...(board && { board }) });
  return call(`/api/operations/graphs?${query}`, { headers: { Authorization: `Bearer ${adminToken}` } });
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
  } catch {
    throw Refusal.unheard("The server can't be reached. Check your connection and try again.");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const retryAfter = answer?.retryAfter ?? response.headers.get("Retry-After") ?? undefined;
  throw Refusal.fromAnswer({ ...answer, retryAfter });
}
