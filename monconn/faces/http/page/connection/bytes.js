/**
 * Bytes of a connection, as events of a flow, for people: hex and text side by side, or text alone,
 * with direction and time; bytes that are missing are said to be.
 */
import { h, printable, replace } from "../dom.js";
import { formatBytes, formatCount, twoDigits } from "../units.js";

/**
 * @typedef {Record<string, any>} FlowEvent As JSON: `event` is its kind; `data` is base64.
 * @typedef {"hex" | "text"} Look
 */

/** The most bytes that a page shows; the oldest leave first. */
export const MOST_BYTES = 256 * 1024;
/** The most events that a page shows. */
export const MOST_EVENTS = 2000;
const MISSING = { up: "client", down: "backend" };

/**
 * @param {string} base64
 * @returns {Uint8Array}
 */
function decodeBase64(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index += 1) bytes[index] = text.charCodeAt(index);
  return bytes;
}

/**
 * Lines of a hex dump.
 *
 * @param {Uint8Array} bytes
 * @param {number} offset Of the first byte, in its direction.
 * @param {number} columns Bytes in a line.
 * @returns {string}
 */
function hexDump(bytes, offset, columns) {
  const lines = [];
  const digits = columns < 16 ? 4 : 6;
  for (let start = 0; start < bytes.length; start += columns) {
    const line = bytes.subarray(start, start + columns);
    const hex = Array.from(line, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = Array.from(line, (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${(offset + start).toString(16).padStart(digits, "0")}  ${hex.padEnd(columns * 3 - 1)}  ${text}`);
  }
  return lines.join("\n");
}

/**
 * Bytes as text, taken for UTF-8: lines stay lines, and all that is not printable is escaped.
 *
 * @param {Uint8Array} bytes
 * @returns {string}
 */
function plainText(bytes) {
  const text = new TextDecoder("utf-8").decode(bytes);
  return text
    .split(/\r?\n/)
    .map((line) => printable(line))
    .join("\n");
}

/** @param {number} at */
function exactTime(at) {
  const date = new Date(at * 1000);
  const clock = [date.getHours(), date.getMinutes(), date.getSeconds()].map(twoDigits).join(":");
  return `${clock}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** Shows the events of one connection, within bounds. */
export class ByteView {
  /**
   * @param {string} label Of the region, for screen readers.
   */
  constructor(label) {
    this.list = h("ol", { class: "flow" });
    this.note = h("p", { class: "muted", hidden: true });
    this.element = h(
      "div",
      { class: "flow-box", role: "region", "aria-label": label, tabindex: "0" },
      this.note,
      this.list,
    );
    /** @type {Look} */
    this.look = "hex";
    /** @type {{event: FlowEvent, bytes: Uint8Array | null, missing: number, item: HTMLElement}[]} */
    this.shown = [];
    this.count = 0;
    this.left = 0;
    /** @type {Record<string, number>} Where each direction's next byte is expected. */
    this.next = {};
    this.columns = 16;
    this.observer = new ResizeObserver(([entry]) => {
      const columns = (entry?.contentRect.width ?? 800) < 560 ? 8 : 16;
      if (columns !== this.columns) {
        this.columns = columns;
        this.redraw();
      }
    });
    this.observer.observe(this.element);
  }

  /** Forget all events. */
  clear() {
    this.shown = [];
    this.count = 0;
    this.left = 0;
    this.next = {};
    replace(this.list);
    this.note.hidden = true;
  }

  /** @param {Look} look */
  setLook(look) {
    this.look = look;
    this.redraw();
  }

  /** @param {FlowEvent[]} events */
  add(events) {
    const isAtEnd = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 40;
    const made = document.createDocumentFragment();
    for (const event of events) {
      const bytes = event.event === "data" ? decodeBase64(String(event.data ?? "")) : null;
      const missing = this.missingBefore(event, bytes);
      const item = this.makeItem(event, bytes, missing);
      if (item === null) continue;
      this.shown.push({ event, bytes, missing, item });
      this.count += bytes?.length ?? 0;
      made.append(item);
    }
    this.list.append(made);
    this.trim();
    if (isAtEnd) this.element.scrollTop = this.element.scrollHeight;
  }

  /**
   * Bytes that are not shown, as there were more than there is room for.
   *
   * @param {number} count
   */
  skip(count) {
    this.left += count;
  }

  /**
   * How many bytes were not seen before an event.
   *
   * @param {FlowEvent} event
   * @param {Uint8Array | null} bytes
   */
  missingBefore(event, bytes) {
    if (event.event === "began") {
      this.next = { up: Number(event.up ?? 0), down: Number(event.down ?? 0) };
      return 0;
    }
    if (bytes === null) return 0;
    const offset = Number(event.offset ?? 0);
    const missing = offset - (this.next[event.direction] ?? 0);
    this.next[event.direction] = offset + bytes.length;
    return Math.max(missing, 0);
  }

  trim() {
    while (this.shown.length > 1 && (this.count > MOST_BYTES || this.shown.length > MOST_EVENTS)) {
      const oldest = this.shown.shift();
      this.count -= oldest?.bytes?.length ?? 0;
      this.left += oldest?.bytes?.length ?? 0;
      oldest?.item.remove();
    }
    this.note.hidden = this.left === 0;
    if (this.left) {
      this.note.textContent = `The page shows the last ${formatBytes(MOST_BYTES)}: ${formatBytes(this.left)} before them have left it.`;
    }
  }

  redraw() {
    for (const each of this.shown) {
      const item = this.makeItem(each.event, each.bytes, each.missing);
      if (item === null) continue;
      each.item.replaceWith(item);
      each.item = item;
    }
  }

  /**
   * @param {FlowEvent} event
   * @param {Uint8Array | null} bytes
   * @param {number} missing
   * @returns {HTMLElement | null}
   */
  makeItem(event, bytes, missing) {
    const at = h("time", { class: "flow-at" }, exactTime(Number(event.at ?? 0)));
    if (bytes !== null) {
      const isUp = event.direction === "up";
      const who = isUp ? "client → backend" : "client ← backend";
      const title = `${formatCount(bytes.length)} ${bytes.length === 1 ? "byte" : "bytes"} at ${formatCount(Number(event.offset ?? 0))}`;
      const text =
        this.look === "hex" ? hexDump(bytes, Number(event.offset ?? 0), this.columns) : plainText(bytes);
      return h(
        "li",
        { class: `flow-data ${isUp ? "up" : "down"}` },
        missing ? h("p", { class: "flow-gap" }, `${formatCount(missing)} bytes of the ${isUp ? MISSING.up : MISSING.down} are missing here`) : null,
        h("p", { class: "flow-head" }, at, " ", h("strong", null, who), " ", h("span", { class: "muted" }, title)),
        dump(text, this.look),
      );
    }
    if (event.event === "began") {
      const seen = event.up || event.down ? `, after ${formatBytes(event.up)} up and ${formatBytes(event.down)} down` : "";
      return h("li", { class: "flow-note" }, at, ` seen from here on${seen}`);
    }
    if (event.event === "side_ended") {
      return h("li", { class: "flow-note" }, at, ` the ${event.side} has ended (${event.how})`);
    }
    if (event.event === "ended") {
      const why = event.reason ? `closed: ${event.reason}` : "not seen any more; the connection lives on";
      return h("li", { class: "flow-note" }, at, ` ${why}`);
    }
    return null;
  }

  /** Stop watching its size. */
  destroy() {
    this.observer.disconnect();
  }
}

/**
 * Its lines are split already, and escaped: `h` would escape the ends of lines.
 *
 * @param {string} text
 * @param {Look} look
 */
function dump(text, look) {
  const element = h("pre", { class: `flow-bytes ${look}` });
  element.textContent = text;
  return element;
}
