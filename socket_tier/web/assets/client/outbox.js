import { Backoff } from "./backoff.js";

/**
 * Carries the ballot's latest choice to the server, again and again until there is an answer.
 *
 * The same choice always travels with the same commandId, so a repeat never counts twice. A newer choice replaces an
 * older one that is still waiting. Open while joined, shut while the line is down.
 */
export class Outbox {
  #ballot;
  #send;
  #backoff;
  #isOpen = false;
  #inFlight = null;
  #timer = null;
  #notBeforeMs = 0;

  /** @param send takes {optionIndex, commandId}; resolves once the server has it, rejects with a Refusal. */
  constructor(ballot, send, backoff = new Backoff()) {
    this.#ballot = ballot;
    this.#send = send;
    this.#backoff = backoff;
  }

  open() {
    this.#isOpen = true;
    this.deliver();
  }

  shut() {
    this.#isOpen = false;
    this.#inFlight = null;
    clearTimeout(this.#timer);
  }

  /** Send what waits, unless the line is down, it is already on its way, or the server asked for a pause. */
  async deliver() {
    const vote = this.#ballot.unsent;
    if (!this.#isOpen || !vote || this.#inFlight === vote.commandId) return;
    clearTimeout(this.#timer);
    const pauseMs = this.#notBeforeMs - Date.now();
    if (pauseMs > 0) return this.#deliverIn(pauseMs);
    this.#inFlight = vote.commandId;
    try {
      await this.#send(vote);
      this.#backoff.reset();
      this.#ballot.accepted(vote);
    } catch (refusal) {
      this.#failed(vote, refusal);
    } finally {
      if (this.#inFlight === vote.commandId) this.#inFlight = null;
    }
  }

  #failed(vote, refusal) {
    if (!refusal.retryable) return this.#ballot.refused(vote.commandId, refusal);
    const waitMs = this.#backoff.nextMs(refusal.retryAfterS);
    // A newer choice does not jump the pause that the server asked for.
    if (refusal.retryAfterS !== null) this.#notBeforeMs = Date.now() + waitMs;
    this.#ballot.waiting(vote.commandId, refusal);
    if (this.#isOpen) this.#deliverIn(waitMs);
  }

  #deliverIn(waitMs) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.deliver(), waitMs);
  }
}
