import { io } from "../vendor/socket.io.esm.min.js";
import { Backoff } from "./backoff.js";
import { Refusal } from "./refusal.js";
import { Signals } from "./signals.js";

const ANSWER_WITHIN_MS = 5000;
const LOOK_MS = 1000;
const SILENT_MS = 40000; // longer than the time between two of the server's pings

/**
 * The line to the server. It comes back by itself, for ever, and says honestly what it is doing.
 *
 * Signals: `state` with {phase, error}, where phase is idle, connecting, connected, reconnecting or offline.
 */
export class Connection extends Signals {
  state = { phase: "idle", error: "" };
  #socket;
  #credentials;
  #webSocketWorked = false;
  #refusedBackoff = new Backoff();
  #timer = null;
  #heardAtMs = 0;
  #url;
  #attempt = 0;

  /** @param credentials returns what the handshake carries as `auth`, so that the server may resume at once. */
  constructor(url, credentials) {
    super();
    this.#url = url;
    this.#credentials = credentials;
    this.#socket = io(url, {
      autoConnect: false,
      transports: ["websocket"],
      withCredentials: true,
      reconnectionAttempts: Infinity,
      reconnectionDelay: 500,
      reconnectionDelayMax: 2000, // with the half that chance adds, a page is right within 3 s of the line's return
      randomizationFactor: 0.5,
      timeout: 8000,
      auth: (give) => give(this.#credentials()),
    });
    this.#follow();
    this.#followTheDevice();
  }

  open() {
    if (this.#socket.active) return;
    this.#set("connecting");
    this.#socket.connect(); // not looked at: when a hall opens its pages at once, a handshake may take its time
  }

  close() {
    clearTimeout(this.#timer);
    this.#socket.disconnect();
    this.#set("idle");
  }

  get isConnected() {
    return this.#socket.connected;
  }

  /** Hear one of the server's events. */
  hear(event, handler) {
    this.#socket.on(event, handler);
  }

  /**
   * Send an event and wait for its answer, never longer than `withinMs`.
   *
   * @throws Refusal the server's own, or a retryable one when nothing was heard
   */
  async request(event, payload, withinMs = ANSWER_WITHIN_MS) {
    // Never through the library's own buffer: it would flush an old vote before the room is joined again.
    if (!this.isConnected) throw Refusal.unheard("There is no connection at the moment.");
    const sentAtMs = Date.now();
    let answer;
    try {
      answer = await this.#socket.timeout(withinMs).emitWithAck(event, payload);
    } catch {
      // Nothing at all since then: the line is dead, though nobody has said so. A mobile network does that.
      if (this.isConnected && this.#heardAtMs < sentAtMs) this.#renew();
      throw Refusal.unheard();
    }
    if (answer?.success === true) return answer;
    throw Refusal.fromAnswer(answer);
  }

  #follow() {
    this.#socket.on("connect", () => {
      this.#webSocketWorked ||= this.#socket.io.engine.transport.name === "websocket";
      this.#refusedBackoff.reset();
      this.#heardAtMs = Date.now();
      this.#socket.io.engine.on("packet", () => {
        this.#heardAtMs = Date.now();
      });
      this.#set("connected");
    });
    this.#socket.on("disconnect", (reason) => {
      if (reason === "io client disconnect") return;
      this.#set("reconnecting");
      // The library takes a disconnect by the server as final. A node that drains says it too, and another one waits.
      if (reason === "io server disconnect") this.#openAgainIn(this.#refusedBackoff.nextMs());
    });
    this.#socket.io.on("reconnect_attempt", () => this.#lookWhileItHangs());
    this.#socket.on("connect_error", (error) => {
      this.#set("reconnecting", error.data?.error ?? "");
      this.#allowPolling();
      const wasRefused = !this.#socket.active;
      this.#attempt += 1;
      if (wasRefused) this.#openAgainIn(this.#refusedBackoff.nextMs(Refusal.fromAnswer(error.data).retryAfterS));
    });
  }

  /**
   * A handshake that began where packets vanish hangs on for seconds after the line is back. Small requests find that
   * out; then another one is begun, which nobody looks at: on a slow line it needs its time.
   */
  async #lookWhileItHangs() {
    const attempt = (this.#attempt += 1);
    const isStillHanging = () => attempt === this.#attempt && !this.isConnected && this.state.phase !== "idle";
    while (true) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      if (!isStillHanging()) return;
      const look = { cache: "no-store", signal: AbortSignal.timeout(LOOK_MS) };
      const isThere = await fetch(new URL("/api/health/live", this.#url), look).then(({ ok }) => ok, () => false);
      if (!isThere || !isStillHanging()) continue;
      this.#renew({ isLookedAt: false });
      return;
    }
  }

  /** Some networks let no WebSocket through; but where one has worked, polling would only add load in an outage. */
  #allowPolling() {
    if (this.#webSocketWorked) return;
    Object.assign(this.#socket.io.opts, { transports: ["websocket", "polling"], tryAllTransports: true });
  }

  /** A phone that wakes up, or finds its network again, should not sit out the rest of a back-off. */
  #followTheDevice() {
    addEventListener("online", () => {
      if (this.state.phase !== "idle") this.#renew(); // a line from before the cut may look alive and lead nowhere
    });
    document.addEventListener("visibilitychange", () => {
      if (this.state.phase === "idle" || document.visibilityState === "hidden") return;
      if (!this.isConnected || Date.now() - this.#heardAtMs > SILENT_MS) this.#renew();
    });
    addEventListener("offline", () => {
      if (this.state.phase !== "idle") this.#set("offline");
    });
  }

  /** Give the line up, if there is one, and open another within a moment; not all phones of a hall at once. */
  #renew({ isLookedAt = true } = {}) {
    this.#attempt += 1; // a look at the line that is given up must not end the next one
    this.#socket.disconnect();
    this.#set("reconnecting");
    this.#openAgainIn(Math.random() * 400, isLookedAt);
  }

  #openAgainIn(waitMs, isLookedAt = true) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (this.state.phase === "idle" || this.isConnected) return;
      this.#set("reconnecting");
      this.#socket.disconnect().connect();
      if (isLookedAt) this.#lookWhileItHangs();
    }, waitMs);
  }

  #set(phase, error = "") {
    const isOffline = phase === "reconnecting" && navigator.onLine === false;
    this.state = Object.freeze({ phase: isOffline ? "offline" : phase, error });
    this.emit("state", this.state);
  }
}
