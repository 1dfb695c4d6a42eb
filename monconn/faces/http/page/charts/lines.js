/** Lines over time. */
import { h, setText, svg } from "../dom.js";
import { formatTime } from "../units.js";
import { AXIS, roundTop, timeAxis } from "./axes.js";
import { frame } from "./chart.js";
import { cursor, movedBy, nearestIndex, readout } from "./cursor.js";
import { colourOf, swatch } from "./series.js";

/**
 * @template T
 * @typedef {import("./chart.js").Chart<T>} Chart
 */
/** @typedef {import("./chart.js").Format} Format */
/** @typedef {import("./series.js").Series} Series */

/**
 * @typedef {object} Sample
 * @property {number} at
 * @property {(number | null)[]} values one for each series; null where nothing is known
 */

/**
 * Lines over time: one series, or two of which the second is drawn downwards.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {Series[]} options.series one or two
 * @param {Format} [options.format] of values
 * @param {boolean} [options.isBinary] whether powers of 1024 are round
 * @param {number} [options.height]
 * @param {string} [options.empty] what is said as long as there is nothing
 * @returns {Chart<{samples: Sample[], since?: number, until?: number}>}
 */
export function lineChart({
  label,
  series,
  format = String,
  isBinary = false,
  height = 160,
  empty = "Nothing yet.",
}) {
  /** @type {Sample[]} */
  let samples = [];
  /** @type {number | undefined} */
  let since;
  /** @type {number | undefined} */
  let until;
  let x = (/** @type {number} */ _at) => 0;
  const box = readout();
  const isMirrored = series.length === 2;

  const draw = (/** @type {number} */ width, /** @type {SVGElement} */ picture) => {
    const from = since ?? samples[0]?.at ?? 0;
    const to = Math.max(until ?? samples.at(-1)?.at ?? 1, from + 1);
    x = (at) => ((at - from) / (to - from)) * width;
    const highest = series.map((_, place) =>
      Math.max(0, ...samples.map((each) => each.values[place] ?? 0)),
    );
    const tops = highest.map((each) => roundTop(each, isBinary));
    // One scale for both directions: otherwise the picture would show the small one as large. Each
    // gets as much room as it needs.
    const [first = 1, second = 0] = tops;
    const share = isMirrored ? Math.min(Math.max(first / (first + second), 0.2), 0.8) : 1;
    const middle = Math.round((height - AXIS) * share);
    const scale = Math.min((middle - 4) / first, isMirrored ? (height - AXIS - middle - 4) / second : Infinity);
    /** @type {Node[]} */
    const parts = [];
    parts.push(...timeAxis(from, to, width, height - AXIS, x));
    series.forEach((each, place) => {
      const sign = place === 0 ? -1 : 1;
      const y = (/** @type {number} */ value) => middle + sign * value * scale;
      let line = "";
      let area = "";
      let begun = -1;
      samples.forEach((sample, index) => {
        const value = sample.values[place];
        if (value === null || value === undefined) {
          if (begun >= 0) area += closing(index - 1, begun);
          begun = -1;
          return;
        }
        const point = `${x(sample.at).toFixed(1)} ${y(value).toFixed(1)}`;
        line += `${begun < 0 ? "M" : "L"}${point}`;
        area += `${begun < 0 ? "M" : "L"}${point}`;
        if (begun < 0) begun = index;
      });
      if (begun >= 0) area += closing(samples.length - 1, begun);
      const colour = `series-${colourOf(each, place)}`;
      parts.push(svg("path", { class: `chart-area ${colour}`, d: area }));
      parts.push(
        svg("path", { class: `chart-line ${colour}${place ? " dashed" : ""}`, d: line }),
      );
      const top = tops[place] ?? 1;
      const edge = y(top);
      if (!highest[place]) return;
      parts.push(svg("line", { class: "chart-grid", x1: 0, x2: width, y1: edge, y2: edge }));
      // Between the mark and the axis, unless there is no room.
      const isBeyond = Math.abs(edge - middle) < 14;
      const beside = (place === 0) === isBeyond ? -4 : 11;
      parts.push(svg("text", { class: "chart-text chart-halo", x: 2, y: edge + beside }, format(top)));
    });
    parts.push(svg("line", { class: "chart-axis", x1: 0, x2: width, y1: middle, y2: middle }));
    const index = reader.index();
    const sample = index === null ? undefined : samples[index];
    if (sample) {
      const at = x(sample.at);
      parts.push(svg("line", { class: "chart-mark", x1: at, x2: at, y1: 0, y2: height - AXIS }));
      box.show([formatTime(sample.at), ...valueTexts(sample)], at, width);
    } else {
      box.hide();
    }
    if (samples.length === 0) {
      parts.push(
        svg("text", { class: "chart-text", x: width / 2, y: middle - 8, "text-anchor": "middle" }, empty),
      );
    }
    picture.replaceChildren(...parts);

    /** @param {number} last @param {number} first */
    function closing(last, first) {
      const right = x(samples[last]?.at ?? 0).toFixed(1);
      const left = x(samples[first]?.at ?? 0).toFixed(1);
      return `L${right} ${middle}L${left} ${middle}Z`;
    }
  };
  const valueTexts = (/** @type {Sample} */ sample) =>
    series.map((each, place) => {
      const value = sample.values[place];
      return `${each.label} ${value === null || value === undefined ? "not known" : format(value)}`;
    });
  const shape = frame("chart-lines", height, draw);
  const reader = cursor(
    label,
    (at) => nearestIndex(samples, (each) => x(each.at), at),
    (index) => {
      const sample = samples[index];
      return sample ? `${formatTime(sample.at)}: ${valueTexts(sample).join(", ")}` : "";
    },
    () => shape.draw(),
  );
  const legend = h("figcaption", { class: "chart-legend" });
  legend.append(
    ...series.map((each, place) =>
      h("span", { class: "chart-key" },
        swatch("line", colourOf(each, place), 0, place > 0),
        each.label,
      ),
    ),
  );
  shape.element.append(reader.element, box.element, legend);
  reader.element.style.height = `${height}px`;
  return {
    element: shape.element,
    update(data) {
      const read = reader.index();
      const moment = read === null ? undefined : samples[read]?.at;
      ({ samples, since, until } = data);
      const highest = series.map((each, place) => {
        const values = samples.map((sample) => sample.values[place] ?? 0);
        return `${each.label} at most ${format(Math.max(0, ...values))}`;
      });
      const what = samples.length ? highest.join(", ") : empty;
      setText(shape.summary, `${label}: ${what}`);
      reader.resize(samples.length, movedBy(samples.map((each) => each.at), read, moment));
      shape.draw();
    },
    remove: shape.remove,
  };
}
