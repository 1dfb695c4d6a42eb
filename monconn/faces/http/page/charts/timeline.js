/** Points and spans on one axis. */
import { h, setText, svg } from "../dom.js";
import { formatDuration, formatTime } from "../units.js";
import { AXIS, timeAxis } from "./axes.js";
import { frame } from "./chart.js";
import { cursor, readout } from "./cursor.js";

/**
 * @template T
 * @typedef {import("./chart.js").Chart<T>} Chart
 */
/** @typedef {import("./chart.js").Frame} Frame */

/** @typedef {"normal" | "good" | "warn" | "bad" | "quiet"} Tone */

/**
 * @typedef {object} TimelineSpan
 * @property {number} from
 * @property {number} to
 * @property {string} text
 * @property {Tone} [tone]
 */

/**
 * @typedef {object} TimelinePoint
 * @property {number} at
 * @property {string} text
 * @property {Tone} [tone]
 */

/**
 * @typedef {object} Lane
 * @property {string} label
 * @property {TimelineSpan[]} [spans]
 * @property {TimelinePoint[]} [points]
 */

/**
 * Points and spans of several kinds on one time axis, a lane for each kind.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {(item: TimelineSpan | TimelinePoint) => void} [options.onPick]
 * @returns {Chart<{since: number, until: number, lanes: Lane[]}>}
 */
export function timeline({ label, onPick }) {
  const tall = 26;
  const head = 14;
  /** @type {Lane[]} */
  let lanes = [];
  let since = 0;
  let until = 1;
  /** @type {{item: TimelineSpan | TimelinePoint, lane: number, from: number, to: number}[]} */
  let items = [];
  let x = (/** @type {number} */ _at) => 0;
  let pointed = 0;
  const box = readout();
  /** @type {Frame | null} */
  let shape = null;
  const element = h("div", { class: "chart-holder" });
  const textOf = (/** @type {number} */ index) => {
    const found = items[index];
    if (!found) return "";
    const { item, from, to } = found;
    const lane = lanes[found.lane]?.label ?? "";
    const times = to > from ? `${formatTime(from)}, for ${formatDuration(to - from)}` : formatTime(from);
    return `${lane}: ${item.text}, ${times}`;
  };
  const reader = cursor(
    label,
    (at) => {
      const lane = Math.floor(pointed / tall);
      let best = null;
      let least = Infinity;
      items.forEach((each, index) => {
        const inside = at >= x(each.from) && at <= x(each.to);
        const edge = Math.min(Math.abs(x(each.from) - at), Math.abs(x(each.to) - at));
        const distance = (inside ? 0 : edge) + 10_000 * Math.abs(each.lane - lane);
        if (distance <= least) [best, least] = [index, distance];
      });
      return /** @type {number | null} */ (least < 10_000 ? best : null);
    },
    textOf,
    () => shape?.draw(),
    onPick &&
      ((index) => {
        const found = items[index];
        if (found) onPick(found.item);
      }),
  );
  reader.element.addEventListener("pointermove", (event) => (pointed = event.offsetY), true);
  reader.element.addEventListener("pointerdown", (event) => (pointed = event.offsetY), true);

  const draw = (/** @type {number} */ width, /** @type {SVGElement} */ picture) => {
    const inset = 6;
    x = (at) => inset + ((at - since) / (until - since)) * (width - 2 * inset);
    const height = lanes.length * tall;
    /** @type {Node[]} */
    const parts = [];
    parts.push(...timeAxis(since, until, width, height, x));
    const index = reader.index();
    lanes.forEach((lane, place) => {
      const y = place * tall;
      parts.push(
        svg("line", { class: "chart-grid", x1: 0, x2: width, y1: y + tall, y2: y + tall }),
        svg("text", { class: "chart-text chart-halo", x: 2, y: y + 10 }, lane.label),
      );
    });
    items.forEach(({ item, lane, from, to }, place) => {
      const y = lane * tall + head;
      const chosen = place === index ? " chosen" : "";
      const look = `tone-${item.tone ?? "normal"}${chosen}`;
      if ("from" in item) {
        const wide = Math.max(x(to) - x(from), 1.5);
        parts.push(
          svg("rect", { class: `timeline-span ${look}`, x: x(from), y, width: wide, height: 8, rx: 1 }),
        );
        return;
      }
      const at = x(from);
      // What is bad has another shape, too: colours are not seen by all.
      const d =
        item.tone === "bad" || item.tone === "warn"
          ? `M${at - 5} ${y + 9}L${at} ${y - 1}L${at + 5} ${y + 9}Z`
          : `M${at - 4} ${y + 4}L${at} ${y}L${at + 4} ${y + 4}L${at} ${y + 8}Z`;
      parts.push(svg("path", { class: `timeline-point ${look}`, d }));
    });
    parts.push(svg("line", { class: "chart-axis", x1: 0, x2: width, y1: height, y2: height }));
    picture.replaceChildren(...parts);
    const found = index === null ? undefined : items[index];
    if (found && index !== null) {
      const { item, from, to } = found;
      const times = to > from ? [`${formatTime(from)} – ${formatTime(to)}`, formatDuration(to - from)] : [formatTime(from)];
      box.show([item.text, ...times], (x(from) + x(to)) / 2, width);
    } else {
      box.hide();
    }
  };
  return {
    element,
    update(data) {
      ({ lanes } = data);
      since = data.since;
      until = Math.max(data.until, since + 0.001);
      items = lanes.flatMap((lane, place) => [
        ...(lane.spans ?? []).map((item) => ({
          item,
          lane: place,
          from: Math.max(item.from, since),
          to: Math.min(item.to, until),
        })),
        ...(lane.points ?? []).map((item) => ({ item, lane: place, from: item.at, to: item.at })),
      ]);
      items = items.filter((each) => each.to >= since && each.from <= until);
      items.sort((one, other) => one.from - other.from);
      const height = lanes.length * tall + AXIS;
      if (shape === null || shape.picture.getAttribute("height") !== String(height)) {
        shape?.remove();
        shape = frame("chart-timeline", height, draw);
        shape.element.append(reader.element, box.element);
        reader.element.style.height = `${height}px`;
        element.replaceChildren(shape.element);
      }
      const counts = lanes.map((lane) => {
        const count = (lane.spans?.length ?? 0) + (lane.points?.length ?? 0);
        return `${lane.label} ${count}`;
      });
      setText(shape.summary, `${label}: ${counts.join(", ")}`);
      reader.resize(items.length);
      shape.draw();
    },
    remove() {
      shape?.remove();
      element.remove();
    },
  };
}
