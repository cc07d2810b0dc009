/**
 * Votemill in a browser: join a poll, vote, and follow the totals. An ES module without a build step.
 *
 *     import { connect } from "/assets/client.js";
 *
 *     const client = connect();
 *     client.on("poll", (poll) => draw(poll.options, poll.percentages));
 *     client.on("vote", ({ optionIndex, state }) => mark(optionIndex, state));
 *     await client.join({ roomCode: "ABC234", nickname: "Ada" });
 *     client.vote(1);
 *
 * The line comes back by itself, the room is joined again by itself, and a vote is kept (also over a reload) and sent
 * again until the server has answered it. Signals, each also readable as a property:
 *
 * - `connection` {phase: idle | connecting | connected | reconnecting | offline, error}
 * - `membership` {phase: none | joining | joined | refused, refusal}
 * - `poll` {roomCode, question, options, state, participantCount, votes, percentages, version, final, paused, rules,
 *   hidden, voteCount, closesAtMs}; hidden: the totals are not for this browser now, and voteCount is all that is known
 * - `vote` {optionIndex, state: none | sending | accepted | counted | refused, error, correlationId} (`client.choice`)
 * - `arrived`, `departed` {nickname, count}; hosts always, participants in small rooms
 */
import { Ballot } from "./client/ballot.js";
import { Connection } from "./client/connection.js";
import { Membership } from "./client/membership.js";
import { Outbox } from "./client/outbox.js";
import { PollView } from "./client/poll-view.js";
import { Refusal } from "./client/refusal.js";
import { Signals } from "./client/signals.js";
import { recall, remember } from "./client/storage.js";

export { createPoll, fetchExport, fetchPoll, fetchResults } from "./client/rest.js";
export { leaders, voteTotal } from "./client/poll-view.js";
export { Refusal };

const STATE_CHANGE_TRIES = 3;

/** @param url where the node is; the page's own origin by default. Nothing is opened before the first join. */
export function connect({ url = location.origin } = {}) {
  return new VotemillClient(url);
}

/** What this browser keeps about a room: {nickname, participantToken, participantId, hostToken}, each if known. */
export function remembered(roomCode) {
  return { ...recall("participant", roomCode), ...recall("host", roomCode) };
}

export class VotemillClient extends Signals {
  #connection;
  #membership;
  #view = new PollView();
  #ballot = null;
  #outbox = null;
  #identity = {}; // also the handshake's `auth`
  #nickname = "";

  constructor(url) {
    super();
    this.#connection = new Connection(url, () => this.#identity);
    this.#membership = new Membership(this.#connection);
    this.#connection.on("state", (state) => this.#lineChanged(state));
    this.#membership.on("state", (state) => this.emit("membership", state));
    this.#membership.on("joined", (answer) => this.#joined(answer));
    this.#hearTheRoom();
  }

  get connection() {
    return this.#connection.state;
  }

  get membership() {
    return this.#membership.state;
  }

  get poll() {
    return this.#view.poll;
  }

  get choice() {
    return this.#ballot?.vote ?? null;
  }

  /**
   * Join as a participant. The nickname and the token are kept, so that a reload is the same participant.
   *
   * @returns the server's answer {participantId, participantToken, previousVote, reconnected, poll}
   * @throws Refusal such as `Nickname already taken`; while the server only asks for patience it goes on trying
   */
  join({ roomCode, nickname, participantToken }) {
    const kept = recall("participant", roomCode);
    const token = participantToken ?? (kept?.nickname === nickname ? kept.participantToken : undefined);
    this.#identity = { roomCode, ...(token && { participantToken: token }) };
    this.#nickname = nickname;
    return this.#membership.enter("join-room", () => ({ ...this.#identity, nickname }));
  }

  /** Join as the host. @returns {role: "host" or "viewer", poll}: a wrong token makes a viewer */
  async host({ roomCode, hostToken }) {
    this.#identity = { roomCode, ...(hostToken && { hostToken }) };
    const answer = await this.#membership.enter("join", () => this.#identity);
    // A wrong token in a link must not replace the right one that is kept here.
    if (hostToken && answer.role !== "viewer") remember("host", roomCode, { ...recall("host", roomCode), hostToken });
    return answer;
  }

  /** Follow a poll without taking part, as the big screen does. It never claims to be the host. */
  watch({ roomCode }) {
    this.#identity = { roomCode, viewer: true };
    return this.#membership.enter("join", () => this.#identity);
  }

  /** Choose an option. Returns at once; how far the vote has come is told by the `vote` signal. */
  vote(optionIndex) {
    if (!this.#ballot) throw new Error("join a poll before voting");
    this.#ballot.choose(optionIndex);
    this.#outbox.deliver();
  }

  /**
   * Open or close voting, as the host. It is idempotent, so it is tried again when nothing was heard.
   *
   * @returns {state, previousState, poll, pending}; pending: it is decided, the totals follow later
   * @throws Refusal
   */
  async changeState(newState) {
    const { roomCode, hostToken } = this.#identity;
    for (let tries = 1; ; tries += 1) {
      try {
        const answer = await this.#connection.request("change-poll-state", { roomCode, newState, hostToken });
        this.#changed(answer.poll ? this.#view.adopt(answer.poll) : this.#view.stateChanged({ newState }));
        return answer;
      } catch (refusal) {
        const unheard = refusal.code === "no_answer";
        if (!unheard || tries === STATE_CHANGE_TRIES || !this.#connection.isConnected) throw refusal;
      }
    }
  }

  /** Leave for good: no reconnect follows. A vote that is not sent yet stays kept for the next visit. */
  close() {
    this.#outbox?.shut();
    this.#ballot?.close();
    this.#membership.leave();
    this.#connection.close();
  }

  #lineChanged(state) {
    if (state.phase !== "connected") this.#outbox?.shut();
    this.emit("connection", state);
  }

  #joined(answer) {
    if (answer.participantId) this.#takeSeat(answer, answer.poll?.state === "open");
    this.#view.paused(false); // unless the node says so again
    if (answer.poll) this.#changed(this.#view.adopt(answer.poll));
    this.#outbox?.open();
    if (answer.participantId) this.#askAgain(answer.previousVote);
  }

  /** Whether a vote was counted is told once, and a node may die before. The same vote again is told again. */
  #askAgain(previousVote) {
    const vote = this.#ballot.uncounted;
    if (!vote || this.poll.state !== "open") return;
    // Without an answer the next join asks once more, and final totals settle it.
    this.#send(vote).catch(({ code }) => {
      if (code === "vote_stands") this.#ballot.stands(previousVote);
    });
  }

  #takeSeat({ participantId, participantToken = this.#identity.participantToken, previousVote }, isOpen) {
    const { roomCode } = this.#identity;
    this.#identity = { roomCode, participantToken };
    remember("participant", roomCode, { nickname: this.#nickname, participantId, participantToken });
    if (this.#ballot?.participantId !== participantId) {
      this.#ballot?.close();
      this.#ballot = new Ballot(roomCode, participantId, (vote) => this.emit("vote", vote));
      this.#outbox = new Outbox(this.#ballot, (vote) => this.#send(vote));
    }
    this.#ballot.resumed(previousVote, isOpen);
    this.emit("vote", this.#ballot.vote);
  }

  #send({ optionIndex, commandId }) {
    const { roomCode } = this.#identity;
    const { participantId } = this.#ballot;
    return this.#connection.request("submit-vote", { roomCode, participantId, optionIndex, commandId });
  }

  #hearTheRoom() {
    const hear = (event, handler) => this.#connection.hear(event, handler);
    hear("vote-update", (update) => this.#changed(this.#view.totals(update)));
    hear("poll-state-changed", (change) => this.#changed(this.#view.stateChanged(change)));
    hear("participant-count", ({ count }) => this.#changed(this.#view.counted(count)));
    hear("poll-gone", (event) => this.#gone(event));
    hear("results-paused", () => this.#changed(this.#view.paused(true)));
    hear("results-resumed", () => this.#changed(this.#view.paused(false)));
    hear("vote-recorded", (event) => this.#ballot?.recorded(event));
    hear("vote-rejected", (event) => this.#ballot?.rejected(event));
    for (const [event, signal] of [["participant-joined", "arrived"], ["participant-left", "departed"]]) {
      hear(event, (person) => {
        this.#changed(this.#view.counted(person.count));
        this.emit(signal, person);
      });
    }
  }

  /** Not to be joined again: its code may stand for somebody else's poll. */
  #gone(event) {
    this.#outbox?.shut();
    this.#membership.end(Refusal.fromAnswer(event));
  }

  #changed(isNews) {
    if (!isNews) return;
    if (this.poll.final) this.#ballot?.pollIsFinal();
    this.emit("poll", this.poll);
  }
}
