/** The last values of something, small enough for a cell of a table or a card. */
import { h, setAttribute, svg } from "../dom.js";

/**
 * @template T
 * @typedef {import("./chart.js").Chart<T>} Chart
 */
/** @typedef {import("./chart.js").Format} Format */

/**
 * The last values of something, small enough for a cell of a table.
 *
 * @param {object} options
 * @param {string} options.label what the values are, such as "connections of mqtt"
 * @param {Format} [options.format]
 * @param {number} [options.seconds] between two values; said to screen readers
 * @returns {Chart<{values: number[], second?: number[]}>} `second`: another line, on the same scale
 */
export function sparkline({ label, format = String, seconds = 1 }) {
  const picture = svg("svg", {
    class: "chart-sparkline",
    role: "img",
    viewBox: "0 0 100 20",
    preserveAspectRatio: "none",
    "aria-label": label,
  });
  const element = h("span", { class: "sparkline" }, picture);
  return {
    element,
    update({ values, second = [] }) {
      const most = Math.max(values.length, second.length, 2);
      const highest = Math.max(...values, ...second, 0) || 1;
      const line = (/** @type {number[]} */ row) =>
        row
          .map((value, index) => {
            const x = (100 * (most - row.length + index)) / (most - 1);
            return `${index ? "L" : "M"}${x.toFixed(1)} ${(19 - (18 * value) / highest).toFixed(1)}`;
          })
          .join("");
      const first = line(values);
      const from = (100 * (most - values.length)) / (most - 1);
      picture.replaceChildren(
        svg("path", {
          class: "chart-area series-1",
          d: values.length > 1 ? `${first}L100 20L${from.toFixed(1)} 20Z` : "",
        }),
        svg("path", { class: "chart-line series-1", d: first }),
        svg("path", { class: "chart-line series-2 dashed", d: line(second) }),
      );
      const now = values.at(-1);
      const text = now === undefined ? "no values yet" : `now ${format(now)}`;
      const high = values.length ? `, highest ${format(Math.max(...values))}` : "";
      const span = values.length > 1 ? ` in ${Math.round(values.length * seconds)} s` : "";
      setAttribute(picture, "aria-label", `${label}: ${text}${high}${span}`);
    },
    remove: () => element.remove(),
  };
}
