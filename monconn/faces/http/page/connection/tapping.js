/** The live tap of one connection: a stream of its bytes, which the page is given within bounds. */
import { Problem, address, get } from "../api.js";
import { notifyProblem } from "../dialogs.js";
import { formatCount } from "../units.js";
import { MOST_BYTES, MOST_EVENTS } from "./bytes.js";

/** @typedef {import("../types.js").Row} Row */

/** Events of a tap, by the names that they have in the stream. */
const FLOW_EVENTS = ["began", "data", "side_ended", "ended"];
const HIDDEN_MILLISECONDS = 60_000;

/**
 * @param {Row} event
 * @returns {number} About how many bytes it has: of base64, which a quarter is more.
 */
const bytesOf = (event) => Math.floor((String(event.data ?? "").length * 3) / 4);

export class Tapping {
  /**
   * @param {() => Row} row The connection.
   * @param {{events: (events: Row[], skipped: number) => void, state: (isOn: boolean, text: string) => void}} listener
   */
  constructor(row, listener) {
    this.row = row;
    this.listener = listener;
    /** @type {EventSource | null} */
    this.source = null;
    this.droppedBytes = 0;
    this.hasMissed = false;
    /** @type {Row[]} What the page has not been given yet. */
    this.waiting = [];
    this.waitingBytes = 0;
    this.skippedBytes = 0;
    this.frame = 0;
    this.hiddenTimer = 0;
  }

  /** By its uid: after a restart of the server, its number would be another connection's. */
  params() {
    const { uid, id, service } = this.row();
    return uid ? { service, filter: `uid:=${uid}` } : { filter: `id:${id}` };
  }

  get isOn() {
    return this.source !== null;
  }

  start() {
    this.droppedBytes = 0;
    this.hasMissed = false;
    const source = new EventSource(address("tap", this.params()));
    this.source = source;
    this.listener.state(true, "Waiting for the server …");
    document.addEventListener("visibilitychange", this.hidden);
    source.onopen = () => this.tell();
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.refused();
      else this.listener.state(true, "The server cannot be reached; the tap goes on as soon as it can.");
    };
    const take = (/** @type {MessageEvent} */ message) => this.take(JSON.parse(message.data));
    source.onmessage = take;
    for (const name of FLOW_EVENTS) source.addEventListener(name, /** @type {EventListener} */ (take));
    source.addEventListener("dropped", (message) => {
      this.droppedBytes = Number(JSON.parse(message.data).bytes);
      this.tell();
    });
    source.addEventListener("missed", () => {
      this.hasMissed = true;
      this.tell();
    });
    source.addEventListener("end", (message) => {
      this.droppedBytes = Number(JSON.parse(message.data).dropped_bytes);
      this.stop(`The tap has ended.${this.droppedText()}`);
    });
  }

  /** @param {Row} event */
  take(event) {
    if (!FLOW_EVENTS.includes(event.event)) return;
    this.waiting.push(event);
    this.waitingBytes += bytesOf(event);
    // Nothing is drawn of a page that is hidden: so there must be a bound on what waits.
    while (this.waiting.length > 1 && (this.waitingBytes > MOST_BYTES || this.waiting.length > MOST_EVENTS)) {
      const oldest = this.waiting.shift();
      const bytes = oldest === undefined ? 0 : bytesOf(oldest);
      this.waitingBytes -= bytes;
      this.skippedBytes += bytes;
    }
    // At most once for each picture that the browser draws: a stream may be fast.
    if (!this.frame) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.give();
      });
    }
    if (event.event === "ended") {
      this.stop(`${event.reason ? `The connection has ended: ${event.reason}.` : "The tap has ended."}${this.droppedText()}`);
    }
  }

  give() {
    const skipped = this.skippedBytes;
    this.waitingBytes = this.skippedBytes = 0;
    this.listener.events(this.waiting.splice(0), skipped);
  }

  /** A tap has the server copy every byte: not for long if nobody looks. */
  hidden = () => {
    clearTimeout(this.hiddenTimer);
    if (document.hidden) {
      this.hiddenTimer = setTimeout(() => this.stop("The tap was stopped, as nobody has looked for a minute."), HIDDEN_MILLISECONDS);
    }
  };

  droppedText() {
    const dropped = this.droppedBytes ? ` ${formatCount(this.droppedBytes)} bytes came faster than they could be sent here, and were dropped.` : "";
    const missed = this.hasMissed ? " While the server could not be reached, bytes were missed." : "";
    return `${dropped}${missed}`;
  }

  tell() {
    this.listener.state(true, `Live: bytes appear as they pass.${this.droppedText()}`);
  }

  /** The server has refused: an EventSource does not say why, a plain request does. */
  async refused() {
    this.stop("");
    try {
      const abort = new AbortController();
      setTimeout(() => abort.abort(), 3000);
      await get("tap", this.params(), { signal: abort.signal });
      this.listener.state(false, "The tap has ended.");
    } catch (error) {
      if (error instanceof Problem) this.listener.state(false, `There is no tap: ${error.detail || error.title}`);
      else if (error instanceof DOMException) this.listener.state(false, "The tap has ended.");
      else notifyProblem(error);
    }
  }

  /** @param {string} text */
  stop(text) {
    if (this.source === null) return;
    this.source.close();
    this.source = null;
    document.removeEventListener("visibilitychange", this.hidden);
    clearTimeout(this.hiddenTimer);
    this.listener.state(false, text);
  }
}
