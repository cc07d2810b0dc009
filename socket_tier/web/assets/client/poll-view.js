/**
 * The newest known picture of one poll, put together from join answers and events.
 *
 * Totals arrive over several ways (the answer to a join, the live fan-out, repeats after an outage), so an older one
 * may come after a newer one. `version` decides: an older version never replaces a newer one.
 */
export class PollView {
  /** {roomCode, question, options, state, participantCount, votes, percentages, version, final, paused} or null. */
  poll = null;

  /** A whole poll, as in the answer to a join. Returns whether the picture changed. */
  adopt(snapshot) {
    const known = this.poll;
    if (known && snapshot.version < known.version) {
      // What never changes is still worth taking: an event may have arrived before the first snapshot.
      return this.#set({ ...snapshot, ...totalsOf(known), state: known.state, paused: known.paused });
    }
    return this.#set({ ...snapshot, final: Boolean(snapshot.final), paused: known?.paused ?? false });
  }

  /** A `vote-update`. */
  totals(update) {
    const known = this.poll ?? emptyPoll(update.roomCode);
    if (update.version < known.version) return false;
    const count = update.participantCount ?? known.participantCount;
    if (update.version === known.version) {
      // A repeat of a final version must not close a poll that has been opened again in the meantime.
      const final = known.final || (Boolean(update.final) && known.state !== "open");
      return this.#set({ ...known, participantCount: count, final });
    }
    const final = Boolean(update.final);
    return this.#set({
      ...known,
      votes: update.votes,
      percentages: update.percentages,
      version: update.version,
      participantCount: count,
      final,
      // Only a closed poll has final totals, so a missed `poll-state-changed` is made good here.
      state: final ? "closed" : known.state,
    });
  }

  /** A `poll-state-changed`. */
  stateChanged(change) {
    const state = change.newState ?? change.state;
    if (!this.poll || !state) return false;
    return this.#set({ ...this.poll, state, final: state === "closed" && this.poll.final });
  }

  /** The number of distinct connected participants, from whichever event carried it. */
  counted(participantCount) {
    if (!this.poll || !Number.isInteger(participantCount)) return false;
    return this.#set({ ...this.poll, participantCount });
  }

  /** Whether live totals stand still because the node has lost the fan-out. */
  paused(paused) {
    return this.poll ? this.#set({ ...this.poll, paused }) : false;
  }

  #set(poll) {
    this.poll = Object.freeze(poll);
    return true;
  }
}

/** Which options lead: the indexes with the most votes, or none while nobody has voted. */
export function leaders(votes) {
  const most = Math.max(0, ...votes);
  return most === 0 ? [] : votes.flatMap((count, index) => (count === most ? [index] : []));
}

function totalsOf({ votes, percentages, version, final, participantCount }) {
  return { votes, percentages, version, final, participantCount };
}

function emptyPoll(roomCode) {
  return {
    roomCode, question: "", options: [], state: "waiting", participantCount: 0,
    votes: [], percentages: [], version: 0, final: false, paused: false,
  };
}
