import { Backoff } from "./backoff.js";
import { Signals } from "./signals.js";

/**
 * Being in a room, and coming back into it after every reconnect.
 *
 * Signals: `state` with {phase, refusal}, where phase is none, joining (refusal: why it takes longer), joined or
 * refused; `joined` with the server's answer, once for every time the room was entered.
 */
export class Membership extends Signals {
  state = { phase: "none", refusal: null };
  #connection;
  #role = null;
  #backoff = new Backoff();
  #turn = 0;
  #timer = null;

  constructor(connection) {
    super();
    this.#connection = connection;
    connection.on("state", ({ phase }) => this.#lineChanged(phase));
  }

  /**
   * Enter a room, trying again for as long as the server asks for patience.
   *
   * @param payload called before each try, so that a token received meanwhile is used
   * @throws Refusal when the server says that it will never work
   */
  enter(event, payload) {
    this.#role?.reject(new Error("replaced by another join"));
    const outcome = new Promise((resolve, reject) => {
      this.#role = { event, payload, resolve, reject };
    });
    this.#set("joining");
    if (this.#connection.isConnected) this.#attempt();
    else this.#connection.open();
    return outcome;
  }

  leave() {
    this.#role?.reject(new Error("left"));
    this.#abandonAttempt();
    this.#role = null;
    this.#set("none");
  }

  /** The room is no more. No reconnect enters it again. */
  end(refusal) {
    if (!this.#role) return;
    this.#abandonAttempt();
    this.#giveUp(this.#role, refusal);
  }

  #lineChanged(phase) {
    if (!this.#role) return;
    if (phase === "connected") this.#attempt();
    else if (this.state.phase !== "joining") {
      this.#abandonAttempt();
      this.#set("joining");
    } else this.#abandonAttempt();
  }

  async #attempt() {
    this.#abandonAttempt();
    const turn = this.#turn;
    const role = this.#role;
    try {
      const answer = await this.#connection.request(role.event, role.payload());
      if (turn !== this.#turn) return;
      this.#backoff.reset();
      this.emit("joined", answer);
      this.#set("joined");
      role.resolve(answer);
    } catch (refusal) {
      if (turn !== this.#turn) return;
      if (refusal.retryable) this.#tryLater(refusal);
      else this.#giveUp(role, refusal);
    }
  }

  #tryLater(refusal) {
    this.#set("joining", refusal);
    if (this.#connection.isConnected) {
      this.#timer = setTimeout(() => this.#attempt(), this.#backoff.nextMs(refusal.retryAfterS));
    }
  }

  #giveUp(role, refusal) {
    this.#role = null;
    this.#set("refused", refusal);
    role.reject(refusal);
  }

  /** An answer to an earlier try, on a line that is gone, must not speak for the present one. */
  #abandonAttempt() {
    this.#turn += 1;
    clearTimeout(this.#timer);
  }

  #set(phase, refusal = null) {
    this.state = Object.freeze({ phase, refusal });
    this.emit("state", this.state);
  }
}
