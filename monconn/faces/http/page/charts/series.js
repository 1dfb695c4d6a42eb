/** How the series of a chart are told apart: by colours and patterns. */
import { svg } from "../dom.js";

/**
 * @typedef {object} Series
 * @property {string} label
 * @property {number} [colour] 1 to 8, as in charts.css; by its place if left out
 * @property {number} [pattern] of bars: 0 plain, 1 rising lines, 2 dots, 3 flat lines
 */

const COLOURS = 8;
const PATTERNS = 4;
let patterns = 0;

/** An id for patterns: it must be unique in the document. */
export const patternId = () => `chart-pattern-${(patterns += 1)}`;

/** @param {Series} series @param {number} place */
export const colourOf = (series, place) => ((series.colour ?? place + 1) - 1) % COLOURS + 1;

/** @param {Series} series @param {number} place */
export const patternOf = (series, place) =>
  (series.pattern ?? Math.floor(place / COLOURS)) % PATTERNS;
/**
 * How a series looks, for a legend.
 *
 * @param {"line" | "bar"} kind
 * @param {number} colour
 * @param {number} pattern
 * @param {boolean} [isDashed]
 */
export function swatch(kind, colour, pattern, isDashed = false) {
  const picture = svg("svg", { class: "chart-swatch", width: 18, height: 12, "aria-hidden": "true" });
  if (kind === "line") {
    const look = `chart-line series-${colour}${isDashed ? " dashed" : ""}`;
    picture.append(svg("path", { class: look, d: "M1 6L17 6" }));
    return picture;
  }
  const id = patternId();
  picture.append(
    svg("rect", { class: `chart-bar series-${colour}`, x: 0, y: 0, width: 18, height: 12 }),
  );
  if (pattern) {
    picture.append(
      svg("defs", {}, patternShape(id, pattern)),
      svg("rect", { fill: `url(#${id})`, x: 0, y: 0, width: 18, height: 12 }),
    );
  }
  return picture;
}

/**
 * What is drawn over a colour, so that it is not the only difference.
 *
 * @param {string} id
 * @param {number} pattern 1 rising lines, 2 dots, 3 flat lines
 */
export function patternShape(id, pattern) {
  const cell = svg("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" });
  if (pattern === 1) cell.append(svg("path", { class: "chart-hatch", d: "M-1 7L7 -1M-1 1L1 -1M5 7L7 5" }));
  if (pattern === 2) cell.append(svg("circle", { class: "chart-dot", cx: 3, cy: 3, r: 1.3 }));
  if (pattern === 3) cell.append(svg("path", { class: "chart-hatch", d: "M0 3L6 3" }));
  return cell;
}
