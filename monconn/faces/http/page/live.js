/**
 * What the server says by itself: a tick each second, alarms, actions.
 *
 * All tabs of a browser share one stream: a browser opens six connections to a host at most, and
 * each stream would take one for good. The tab that holds a web lock has the stream and passes on
 * what it hears; when it is closed, another one gets the lock.
 */
import { Problem, address, get } from "./api.js";
import { asDate } from "./units.js";

/** Behind a proxy, there may be several monconns at one origin, each below a path of its own. */
const LOCK = `monconn-live ${location.pathname}`;
const CHANNEL = LOCK;
const FIRST_RETRY_MILLISECONDS = 500;
const MOST_RETRY_MILLISECONDS = 15_000;
/** Without a tick for so long, the stream is taken for dead. */
const SILENT_MILLISECONDS = 6_000;
/** Without a word from the tab that has the stream for so long, a tab that is seen takes over. */
const STEAL_MILLISECONDS = 12_000;
/** How many ticks are remembered for sparklines. */
const REMEMBERED_TICKS = 180;

/**
 * @typedef {import("./types.js").Tick} Tick
 * @typedef {import("./types.js").ConnectionState} ConnectionState
 * @typedef {"hello" | "tick" | "alarm" | "action" | "state"} EventName
 */

export class Live {
  constructor() {
    /** @type {ConnectionState} */
    this.state = { state: "connecting", since: Date.now(), text: "" };
    /** @type {Record<string, any> | null} What the stream began with. */
    this.hello = null;
    /** @type {Tick | null} The last one. */
    this.tick = null;
    /** @type {Tick[]} The last ones, the oldest first. */
    this.ticks = [];
    /** Whether this tab has the stream. */
    this.isLeader = false;
    /** @type {Map<EventName, Set<(data: any) => void>>} */
    this.listeners = new Map();
    /** @type {BroadcastChannel | null} */
    this.channel = null;
    /** @type {EventSource | null} */
    this.source = null;
    this.retries = 0;
    this.heardAt = Date.now();
    /** @type {number} */
    this.retryTimer = 0;
    /** @type {AbortController | null} Of the request for the lock. */
    this.queued = null;
    /** @type {(() => void) | null} Gives the lock back. */
    this.release = null;
    this.isStarted = false;
  }

  /**
   * Listen.
   *
   * @param {EventName} name `tick`: a `Tick`, once a second; `alarm`, `action`: rows of these
   *   events; `state`: a `ConnectionState`, when it changes; `hello`: the stream has begun.
   * @param {(data: any) => void} listener
   * @returns {() => void} Stops listening.
   */
  on(name, listener) {
    let listeners = this.listeners.get(name);
    if (listeners === undefined) {
      listeners = new Set();
      this.listeners.set(name, listeners);
    }
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  /** Seconds of the server's wall clock, about. */
  now() {
    const tick = this.tick;
    const passed = (Date.now() - this.heardAt) / 1000;
    return tick === null ? Date.now() / 1000 : asDate(tick.at).getTime() / 1000 + passed;
  }

  /** Begin, once somebody is logged in. */
  start() {
    if (this.isStarted) {
      return;
    }
    this.isStarted = true;
    this.heardAt = Date.now();
    this.setState("connecting", "");
    if ("BroadcastChannel" in window) {
      this.channel = new BroadcastChannel(CHANNEL);
      this.channel.onmessage = (event) => this.heard(event.data);
      this.channel.postMessage({ name: "ask" });
    }
    this.queueForLock(false);
    this.watch = setInterval(() => this.check(), 1000);
    document.addEventListener("visibilitychange", this.hurry);
    window.addEventListener("online", this.hurry);
  }

  /** End, as nobody is logged in any more. */
  stop() {
    if (!this.isStarted) {
      return;
    }
    this.isStarted = false;
    clearInterval(this.watch);
    document.removeEventListener("visibilitychange", this.hurry);
    window.removeEventListener("online", this.hurry);
    this.closeStream();
    this.queued?.abort();
    this.release?.();
    this.release = null;
    this.isLeader = false;
    this.channel?.close();
    this.channel = null;
    this.ticks = [];
    this.tick = null;
    this.hello = null;
    this.setState("logged_out", "");
  }

  /** Somebody looks, or the network is there again: try at once. */
  hurry = () => {
    if (document.visibilityState === "visible" && this.isLeader && this.source === null) {
      this.retries = 0;
      this.connect();
    }
  };

  // -- who has the stream

  /** @param {boolean} steal */
  queueForLock(steal) {
    if (!("locks" in navigator)) {
      this.lead(); // no secure context: each tab has its own
      return;
    }
    this.queued?.abort(); // one request of this tab at a time
    this.queued = new AbortController();
    const queued = this.queued;
    navigator.locks
      .request(LOCK, steal ? { steal: true } : { signal: queued.signal }, () => {
        if (!this.isStarted) {
          return undefined;
        }
        this.lead();
        return new Promise((resolve) => {
          this.release = () => resolve(undefined);
        });
      })
      .catch(() => {
        if (queued.signal.aborted) {
          return;
        }
        // Another tab has taken it over, as this one said nothing.
        this.isLeader = false;
        this.closeStream();
        this.release = null;
        if (this.isStarted) {
          this.queueForLock(false);
        }
      });
  }

  lead() {
    this.isLeader = true;
    this.retries = 0;
    this.connect();
  }

  // -- the stream

  connect() {
    this.closeStream();
    const source = new EventSource(address("live"));
    let hasBegun = false;
    this.source = source;
    this.openedAt = Date.now();
    for (const name of ["hello", "recent", "tick", "alarm", "action"]) {
      source.addEventListener(name, (event) => {
        if (this.source === source) {
          hasBegun = true;
          const data = JSON.parse(/** @type {MessageEvent} */ (event).data);
          this.spread({ name, data });
        }
      });
    }
    source.onerror = () => {
      if (this.source === source) {
        this.lost(hasBegun ? "the connection to it has ended" : "it gives no live figures: perhaps to too many already");
      }
    };
  }

  closeStream() {
    clearTimeout(this.retryTimer);
    this.source?.close();
    this.source = null;
  }

  /** @param {string} text */
  lost(text) {
    this.closeStream();
    this.spread({ name: "state", data: this.goneState(text) });
    const wait = Math.min(MOST_RETRY_MILLISECONDS, FIRST_RETRY_MILLISECONDS * 2 ** this.retries);
    this.retries += 1;
    // Spread, so that all browsers do not come back at the same moment.
    this.retryTimer = setTimeout(() => this.retry(), wait * (0.75 + Math.random() / 2));
  }

  /** An `EventSource` does not say why it failed: a plain call does. */
  async retry() {
    try {
      await get("session", {}, { milliseconds: SILENT_MILLISECONDS });
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      if (this.isLeader && error.status !== 401) {
        this.lost(error.isGone ? "it cannot be reached" : error.message);
      }
      return;
    }
    if (this.isStarted && this.isLeader) {
      this.connect();
    }
  }

  /**
   * @param {string} text
   * @returns {ConnectionState}
   */
  goneState(text) {
    const since = this.state.state === "gone" ? this.state.since : this.tick === null ? Date.now() : this.heardAt;
    return { state: "gone", since, text };
  }

  // -- what is heard, here and in the other tabs

  /** @param {{name: string, data?: any}} message */
  spread(message) {
    this.channel?.postMessage(message);
    this.heard(message);
  }

  /** @param {{name: string, data?: any}} message */
  heard({ name, data }) {
    if (name === "ask") {
      if (this.isLeader) {
        this.channel?.postMessage({ name: "answer", data: { hello: this.hello, ticks: this.ticks, state: this.state } });
      }
      return;
    }
    this.spokenAt = Date.now();
    if (name === "answer") {
      if (this.tick === null && !this.isLeader) {
        this.ticks = data.ticks.slice(0, -1);
        if (data.hello !== null) {
          this.heard({ name: "hello", data: data.hello });
        }
        const last = data.ticks.at(-1);
        if (last !== undefined) {
          this.heard({ name: "tick", data: last });
        }
        this.applyState(data.state);
      }
      return;
    }
    if (name === "state") {
      this.applyState(data);
      return;
    }
    if (name === "hello") {
      if (this.hello !== null && this.hello.served !== data.served) {
        this.ticks = []; // another run: its counters begin again
      }
      this.hello = data;
      this.retries = 0;
    }
    if (name === "recent") {
      this.ticks = data.ticks; // what was before, of whoever was watching
      return;
    }
    if (name === "tick") {
      if (this.ticks.at(-1)?.sequence === data.sequence) {
        this.ticks.pop(); // what comes at once upon joining is the last of what was before
      }
      this.heardAt = Date.now();
      this.tick = data;
      this.ticks.push(data);
      if (this.ticks.length > REMEMBERED_TICKS) {
        this.ticks.shift();
      }
      if (this.state.state !== "live") {
        this.setState("live", "");
      }
    }
    this.emit(/** @type {EventName} */ (name), data);
  }

  /** @param {ConnectionState} state */
  applyState(state) {
    this.state = state;
    this.emit("state", state);
  }

  /**
   * @param {ConnectionState["state"]} state
   * @param {string} text
   */
  setState(state, text) {
    this.applyState({ state, since: Date.now(), text });
  }

  /**
   * @param {EventName} name
   * @param {any} data
   */
  emit(name, data) {
    for (const listener of [...(this.listeners.get(name) ?? [])]) {
      listener(data);
    }
  }

  /** Once a second: is what should speak silent? */
  check() {
    const now = Date.now();
    if (this.isLeader) {
      const since = Math.max(this.heardAt, this.openedAt ?? 0);
      if (this.source !== null && now - since > SILENT_MILLISECONDS) {
        this.lost("it says nothing");
      }
    } else if (
      document.visibilityState === "visible" &&
      "locks" in navigator &&
      now - Math.max(this.spokenAt ?? 0, this.heardAt) > STEAL_MILLISECONDS
    ) {
      this.spokenAt = now;
      this.queueForLock(true);
    }
  }
}

export const live = new Live();
