import { Refusal } from "./refusal.js";

const ANSWER_WITHIN_MS = 15000;

/**
 * @param rules {results, voteChange, closeAfterS, maxParticipants}, each may be left out
 * @returns {roomCode, question, options, state, poll, hostToken, joinUrl, hostUrl}
 * @throws Refusal
 */
export function createPoll({ question, options, rules }) {
  const body = JSON.stringify({ question, options, rules });
  return call("/api/polls", { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

/** @returns the poll with its totals @throws Refusal */
export function fetchPoll(roomCode) {
  return call(`/api/polls/${encodeURIComponent(roomCode)}`);
}

/** Everybody who has joined, for the host. @returns {roomCode, question, options, participants} @throws Refusal */
export function fetchResults(roomCode, hostToken) {
  return call(`/api/polls/${encodeURIComponent(roomCode)}/results.json`, bearer(hostToken));
}

/** The file to keep. @param form "csv" or "json" @returns Blob @throws Refusal */
export function fetchExport(roomCode, hostToken, form) {
  return call(`/api/polls/${encodeURIComponent(roomCode)}/results.${form}`, bearer(hostToken), (answer) => answer.blob());
}

/** @returns {board, boards, graphs} @throws Refusal */
export function fetchGraphs(adminToken, board, minutes) {
  const query = new URLSearchParams({ minutes, ...(board && { board }) });
  return call(`/api/operations/graphs?${query}`, bearer(adminToken));
}

const bearer = (token) => ({ headers: { Authorization: `Bearer ${token}` } });

async function call(path, options = {}, read = (response) => response.json()) {
  let response;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
  } catch {
    throw Refusal.unheard("The server can't be reached. Check your connection and try again.");
  }
  if (response.ok) {
    try {
      return await read(response);
    } catch {
      throw Refusal.unheard("The answer broke off. Check your connection and try again.");
    }
  }
  const answer = await response.json().catch(() => null);
  const retryAfter = answer?.retryAfter ?? response.headers.get("Retry-After") ?? undefined;
  throw Refusal.fromAnswer({ ...answer, retryAfter });
}
