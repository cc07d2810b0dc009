/**
 * The newest known picture of one poll, put together from join answers and events.
 *
 * Totals arrive over several ways (the answer to a join, the live fan-out, repeats after an outage), so an older one
 * may come after a newer one. `version` decides: an older version never replaces a newer one.
 */
export class PollView {
  /** What the signal `poll` says (client.js), or null. */
  poll = null;

  /** A whole poll, as in the answer to a join. Returns whether the picture changed. */
  adopt(snapshot) {
    const known = this.poll;
    if (known && snapshot.version < known.version) {
      // What never changes is still worth taking: an event may have arrived before the first snapshot.
      const { state, paused, closesAtMs } = known;
      return this.#set({ ...snapshot, ...totalsOf(known), state, paused, closesAtMs });
    }
    // The time of the close comes with the event that follows each join: it tells the server's own time as well.
    const { paused = false, closesAtMs = null } = known ?? {};
    return this.#set({ ...snapshot, final: Boolean(snapshot.final), hidden: Boolean(snapshot.hidden), paused, closesAtMs });
  }

  /** A `vote-update`. */
  totals(update) {
    const known = this.poll ?? emptyPoll(update.roomCode);
    if (update.version < known.version) return false;
    const count = update.participantCount ?? known.participantCount;
    const isRevealed = known.hidden && !update.hidden;
    if (update.version === known.version && !isRevealed) {
      // A repeat of a final version must not close a poll that has been opened again in the meantime.
      const final = known.final || (Boolean(update.final) && known.state !== "open");
      return this.#set({ ...known, participantCount: count, final });
    }
    const final = Boolean(update.final);
    return this.#set({
      ...known,
      votes: update.votes,
      percentages: update.percentages,
      hidden: Boolean(update.hidden),
      voteCount: update.voteCount,
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
    // This browser's clock may be wrong: the server says by its own how long voting goes on.
    const leftMs = change.closesAt ? Date.parse(change.closesAt) - Date.parse(change.timestamp) : null;
    const closesAtMs = leftMs === null ? null : Date.now() + leftMs;
    return this.#set({ ...this.poll, state, closesAtMs, final: state === "closed" && this.poll.final });
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

/** How many votes are counted, also where the totals are hidden. */
export const voteTotal = ({ votes, hidden, voteCount }) => (hidden ? voteCount : votes.reduce((sum, count) => sum + count, 0));

function totalsOf({ votes, percentages, hidden, voteCount, version, final, participantCount }) {
  return { votes, percentages, hidden, voteCount, version, final, participantCount };
}

function emptyPoll(roomCode) {
  return {
    roomCode, question: "", options: [], state: "waiting", participantCount: 0,
    votes: [], percentages: [], version: 0, final: false, paused: false,
  };
}
