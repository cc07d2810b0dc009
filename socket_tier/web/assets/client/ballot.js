import { forget, onChangeElsewhere, recall, remember } from "./storage.js";

/**
 * What this participant chose, and how far that choice has travelled.
 *
 *     none ──▶ sending ──▶ accepted ──▶ counted
 *                 └───────────┴──▶ refused
 *
 * *sending*: kept here only; *accepted*: the server has it on disk; *counted*: it is in the totals. Kept in
 * localStorage, so that a reload neither loses a vote that was not sent yet nor forgets how far one had come.
 * Only the latest choice is kept: an older one that was never sent would only be overwritten anyway.
 */
export class Ballot {
  #vote = null;
  #stop;

  constructor(roomCode, participantId, onChange = () => {}) {
    this.roomCode = roomCode;
    this.participantId = participantId;
    this.onChange = onChange;
    this.#load();
    // Two tabs are one participant: both show the newest choice, whichever of them made it.
    this.#stop = onChangeElsewhere("ballot", roomCode, () => {
      this.#load();
      this.onChange(this.vote);
    });
  }

  /** {optionIndex (null before the first vote), state, error, correlationId, commandId}. */
  get vote() {
    return this.#vote;
  }

  /** The choice that the server is not yet known to have, or null. */
  get unsent() {
    return this.#vote.state === "sending" ? this.#vote : null;
  }

  /** The choice that the server has and has not said to have counted, or null. */
  get uncounted() {
    const { state, commandId } = this.#vote;
    return state === "accepted" && commandId ? this.#vote : null;
  }

  choose(optionIndex) {
    this.#set({
      ...nothing(), optionIndex, state: "sending", commandId: newCommandId(), standing: this.#standing(),
    });
  }

  /** A try failed and another one follows; the text says what the voter is waiting for. */
  waiting(commandId, refusal) {
    if (this.#isCurrent(commandId)) this.#set({ ...this.#vote, error: refusal.message });
  }

  accepted({ commandId, optionIndex }) {
    if (!this.unsent) return; // The event that it was counted may overtake the answer that it was accepted.
    if (this.#isCurrent(commandId)) this.#reach("accepted");
    // An earlier choice got through while a newer one was made: it stands if the newer one is refused.
    else this.#set({ ...this.#vote, standing: { optionIndex, state: "accepted", commandId } });
  }

  /** A `vote-recorded` event. */
  recorded({ commandId, optionIndex }) {
    const { standing } = this.#vote;
    if (commandId ? this.#isCurrent(commandId) : optionIndex === this.#vote.optionIndex) this.#reach("counted");
    else if (standing && standing.commandId === commandId) {
      this.#set({ ...this.#vote, standing: { ...standing, state: "counted" } });
    }
  }

  /** A `vote-rejected` event. Without a commandId it comes from somebody who doesn't know it: the node has died. */
  rejected({ commandId, optionIndex, error }) {
    const isMeant = !commandId && this.uncounted?.optionIndex === optionIndex;
    this.refused(isMeant ? this.#vote.commandId : commandId, { message: error });
  }

  /** A never-valid refusal: the choice that stood before stands again. */
  refused(commandId, { message, correlationId = "" }) {
    if (!this.#isCurrent(commandId)) return;
    const standing = this.#vote.standing;
    this.#set({
      ...nothing(), optionIndex: standing?.optionIndex ?? null, commandId: standing?.commandId ?? null,
      state: "refused", error: message, correlationId, standing,
    });
  }

  /**
   * What the server knows, told by every join. A choice that is still on its way is newer than that. While voting is
   * open, so is one that the server has accepted and not said to have counted: a node that was killed may not have told
   * the others of it, and it is asked again.
   */
  resumed(previousVote, isOpen = true) {
    if (!Number.isInteger(previousVote) || (isOpen && this.uncounted)) return;
    if (this.unsent) {
      const standing = { optionIndex: previousVote, state: "accepted", commandId: null };
      this.#set({ ...this.#vote, standing });
    } else this.stands(previousVote);
  }

  /** The server has this choice, whatever was accepted later did not count. */
  stands(optionIndex) {
    if (this.#vote.optionIndex !== optionIndex) this.#set({ ...nothing(), optionIndex, state: "accepted" });
  }

  /** Final totals hold every vote that was accepted. */
  pollIsFinal() {
    if (this.#vote.state === "accepted") this.#reach("counted");
  }

  close() {
    this.#stop();
  }

  #isCurrent(commandId) {
    return Boolean(commandId) && this.#vote.commandId === commandId;
  }

  #reach(state) {
    this.#set({ ...this.#vote, state, error: "", correlationId: "", standing: null });
  }

  #standing() {
    const { optionIndex, state, commandId, standing } = this.#vote;
    return state === "accepted" || state === "counted" ? { optionIndex, state, commandId } : standing;
  }

  #load() {
    const kept = recall("ballot", this.roomCode);
    // A choice of somebody else who used this browser before is not ours to send.
    if (kept && kept.participantId !== this.participantId) forget("ballot", this.roomCode);
    this.#vote = kept?.participantId === this.participantId ? kept.vote : nothing();
  }

  #set(vote) {
    this.#vote = Object.freeze(vote);
    remember("ballot", this.roomCode, { participantId: this.participantId, vote });
    this.onChange(vote);
  }
}

function nothing() {
  return { optionIndex: null, state: "none", error: "", correlationId: "", commandId: null, standing: null };
}

/** A random UUID. crypto.randomUUID is missing on plain http, where a classroom's laptop often serves the page. */
function newCommandId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
