/**
 * Charts as SVG, made by DOM calls: no text is ever read as markup.
 *
 * Each function returns a {@link Chart}: put its `element` into the page, call `update` with new
 * data as often as you like, and `remove` when the view goes. Colours are classes of charts.css,
 * for both themes, and never the only difference: shapes, patterns, heights and words tell the
 * same. All times are seconds of the wall clock, as JavaScript's `Date.now() / 1000`.
 *
 * A chart that has single values to read takes the focus, and the arrow keys, Home and End go from
 * one value to the next. For screen readers it is a slider, whose value is the text of the readout:
 * this is the one role in which they pass arrow keys on and read what changes.
 */
import { h, svg } from "../dom.js";

/**
 * @template T
 * @typedef {object} Chart
 * @property {HTMLElement} element
 * @property {(data: T) => void} update draws other data
 * @property {() => void} remove ends what it watches, and takes it out of the page
 */

/** @typedef {(value: number) => string} Format */

/**
 * @typedef {object} Frame
 * @property {HTMLElement} element
 * @property {SVGElement} picture
 * @property {HTMLElement} summary what the picture shows in one sentence, for screen readers
 * @property {() => void} draw draws now, if the chart has a size
 * @property {() => void} remove
 */

/**
 * A picture that is drawn anew in real pixels when its width changes, so that no text is stretched.
 *
 * @param {string} className
 * @param {number} height
 * @param {(width: number, picture: SVGElement) => void} draw
 * @returns {Frame}
 */
export function frame(className, height, draw) {
  const picture = svg("svg", { class: "chart-picture", height, "aria-hidden": "true" });
  const summary = h("p", { class: "chart-summary" });
  const element = h("figure", { class: `chart ${className}` }, picture, summary);
  let width = 0;
  const drawNow = () => {
    if (width <= 0) return;
    picture.setAttribute("width", String(width));
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    draw(width, picture);
  };
  const observer = new ResizeObserver(([entry]) => {
    const now = Math.floor(entry?.contentRect.width ?? 0);
    if (now === width) return;
    width = now;
    drawNow();
  });
  observer.observe(element);
  const remove = () => {
    observer.disconnect();
    element.remove();
  };
  return { element, picture, summary, draw: drawNow, remove };
}
