/** Counts over time, as stacked bars. */
import { h, setText, svg } from "../dom.js";
import { formatCount, formatTime } from "../units.js";
import { AXIS, roundTop, timeAxis } from "./axes.js";
import { frame } from "./chart.js";
import { cursor, movedBy, nearestIndex, readout } from "./cursor.js";
import { colourOf, patternId, patternOf, patternShape, swatch } from "./series.js";

/**
 * @template T
 * @typedef {import("./chart.js").Chart<T>} Chart
 */
/** @typedef {import("./series.js").Series} Series */

/**
 * @typedef {object} Bucket
 * @property {number} since
 * @property {number} until
 * @property {Record<string, number>} counts by the names of the series
 */

/**
 * Counts over time as bars, one part for each series; its legend is of buttons.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {Map<string, Series>} options.series by name, in the order in which they are stacked
 * @param {(name: string | null, bucket: Bucket | null) => void} [options.onPick] a button of the
 *   legend (its name; null if it was chosen already), or a bar (with the part that was hit, or null
 *   from the keyboard)
 * @param {number} [options.height]
 * @param {string} [options.empty]
 * @returns {Chart<{buckets: Bucket[], since?: number, until?: number, chosen?: string | null}>}
 *   counts of names that `series` does not have are shown as the last series
 */
export function stackedBars({ label, series, onPick, height = 180, empty = "Nothing yet." }) {
  /** @type {Bucket[]} */
  let buckets = [];
  /** @type {number | undefined} */
  let since;
  /** @type {number | undefined} */
  let until;
  /** @type {string | null} */
  let chosen = null;
  const prefix = patternId();
  const names = [...series.keys()];
  const last = names.at(-1) ?? "";
  let x = (/** @type {number} */ _at) => 0;
  let top = 1;
  const box = readout();
  let pointed = 0; // pixels from the top
  const partsOf = (/** @type {Bucket} */ bucket) => {
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (const [name, count] of Object.entries(bucket.counts)) {
      const known = series.has(name) ? name : last;
      if (count > 0) counts.set(known, (counts.get(known) ?? 0) + count);
    }
    return counts;
  };
  const sum = (/** @type {Map<string, number>} */ counts) =>
    [...counts.values()].reduce((total, each) => total + each, 0);
  const labelOf = (/** @type {string} */ name) => series.get(name)?.label ?? name;
  const room = height - AXIS - 6;

  const draw = (/** @type {number} */ width, /** @type {SVGElement} */ picture) => {
    const from = since ?? buckets[0]?.since ?? 0;
    const to = Math.max(until ?? buckets.at(-1)?.until ?? 1, from + 1);
    x = (at) => ((at - from) / (to - from)) * width;
    top = roundTop(Math.max(0, ...buckets.map((each) => sum(partsOf(each)))), false);
    /** @type {Node[]} */
    const parts = [svg("defs", null, ...[1, 2, 3].map((each) => patternShape(`${prefix}-${each}`, each)))];
    parts.push(...timeAxis(from, to, width, height - AXIS, x));
    const floor = height - AXIS;
    const index = reader.index();
    buckets.forEach((bucket, place) => {
      const left = x(bucket.since);
      const whole = x(bucket.until) - left;
      const bar = Math.max(whole - (whole > 4 ? 1 : 0), 1);
      const counts = partsOf(bucket);
      let under = floor;
      names.forEach((name, order) => {
        const count = counts.get(name);
        if (!count) return;
        const look = /** @type {Series} */ (series.get(name));
        const tall = (count * room) / top;
        under -= tall;
        const shape = { x: left, y: under, width: bar, height: Math.max(tall, 0.5) };
        const faded = chosen !== null && chosen !== name ? " faded" : "";
        parts.push(
          svg("rect", { class: `chart-bar series-${colourOf(look, order)}${faded}`, ...shape }),
        );
        const pattern = patternOf(look, order);
        if (pattern && !faded) {
          parts.push(svg("rect", { fill: `url(#${prefix}-${pattern})`, ...shape }));
        }
      });
      if (place === index) {
        parts.push(
          svg("rect", { class: "chart-chosen", x: left, y: 0.5, width: bar, height: floor - 1 }),
        );
      }
    });
    parts.push(svg("line", { class: "chart-axis", x1: 0, x2: width, y1: floor, y2: floor }));
    if (buckets.length) {
      const edge = floor - room;
      parts.push(svg("line", { class: "chart-grid", x1: 0, x2: width, y1: edge, y2: edge }));
      parts.push(
        svg("text", { class: "chart-text chart-halo", x: 2, y: edge + 11 }, formatCount(top)),
      );
    } else {
      parts.push(
        svg("text", { class: "chart-text", x: width / 2, y: floor - 12, "text-anchor": "middle" }, empty),
      );
    }
    picture.replaceChildren(...parts);
    const bucket = index === null ? undefined : buckets[index];
    if (bucket) {
      const at = (x(bucket.since) + x(bucket.until)) / 2;
      box.show([`${formatTime(bucket.since)} – ${formatTime(bucket.until)}`, ...lines(bucket)], at, width);
    } else {
      box.hide();
    }
  };
  const lines = (/** @type {Bucket} */ bucket) => {
    const counts = partsOf(bucket);
    const found = names.filter((name) => counts.get(name));
    if (found.length === 0) return ["none"];
    return found.map((name) => `${labelOf(name)} ${formatCount(counts.get(name) ?? 0)}`);
  };
  const hit = (/** @type {Bucket} */ bucket) => {
    const counts = partsOf(bucket);
    let under = height - AXIS;
    for (const name of names) {
      under -= ((counts.get(name) ?? 0) * room) / top;
      if (counts.get(name) && pointed >= under) return name;
    }
    return null;
  };
  const shape = frame("chart-bars", height, draw);
  const reader = cursor(
    label,
    (at) => nearestIndex(buckets, (each) => (x(each.since) + x(each.until)) / 2, at),
    (index) => {
      const bucket = buckets[index];
      return bucket ? `${formatTime(bucket.since)}: ${lines(bucket).join(", ")}` : "";
    },
    () => shape.draw(),
    onPick &&
      ((index) => {
        const bucket = buckets[index];
        if (bucket) onPick(hit(bucket), bucket);
        pointed = 0;
      }),
  );
  reader.element.addEventListener("pointermove", (event) => (pointed = event.offsetY), true);
  reader.element.addEventListener("pointerdown", (event) => (pointed = event.offsetY), true);
  reader.element.addEventListener("keydown", () => (pointed = 0), true);
  reader.element.style.height = `${height}px`;
  const legend = h("figcaption", { class: "chart-legend" });
  /** @type {Map<string, {button: HTMLElement, count: HTMLElement}>} */
  const keys = new Map();
  names.forEach((name, order) => {
    const look = /** @type {Series} */ (series.get(name));
    const count = h("span", { class: "chart-count" });
    const button = h(onPick ? "button" : "span", { class: "chart-key" },
      swatch("bar", colourOf(look, order), patternOf(look, order)),
      look.label,
      count,
    );
    if (onPick) {
      button.setAttribute("type", "button");
      button.addEventListener("click", () => onPick(chosen === name ? null : name, null));
    }
    button.hidden = true;
    legend.append(button);
    keys.set(name, { button, count });
  });
  shape.element.append(reader.element, box.element, legend);
  return {
    element: shape.element,
    update(data) {
      const read = reader.index();
      const moment = read === null ? undefined : buckets[read]?.since;
      ({ buckets, since, until } = data);
      chosen = data.chosen ?? null;
      /** @type {Map<string, number>} */
      const totals = new Map();
      for (const bucket of buckets) {
        for (const [name, count] of partsOf(bucket)) {
          totals.set(name, (totals.get(name) ?? 0) + count);
        }
      }
      for (const [name, { button, count }] of keys) {
        const total = totals.get(name) ?? 0;
        button.hidden = total === 0 && name !== chosen;
        setText(count, ` ${formatCount(total)}`);
        if (onPick) button.setAttribute("aria-pressed", String(name === chosen));
      }
      const found = names.filter((name) => totals.get(name));
      const what = found.map((name) => `${labelOf(name)} ${totals.get(name)}`).join(", ");
      setText(shape.summary, `${label}: ${what || empty}`);
      reader.resize(buckets.length, movedBy(buckets.map((each) => each.since), read, moment));
      shape.draw();
    },
    remove: shape.remove,
  };
}
