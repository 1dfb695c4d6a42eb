/** How the single values of a chart are read: by pointer, by touch and by keys. */
import { h, setAttribute } from "../dom.js";

/**
 * @typedef {object} Cursor
 * @property {HTMLElement} element
 * @property {(count: number, moved?: number) => void} resize how many values there are now, and by
 *   how many places they have moved
 * @property {() => number | null} index
 */

/**
 * Reads single values: by pointer, by touch and by keys.
 *
 * @param {string} label what the values are
 * @param {(x: number) => number | null} nearest the value at a distance from the left, in pixels
 * @param {(index: number) => string} text
 * @param {(index: number | null) => void} show
 * @param {(index: number) => void} [pick] Enter or a click
 * @returns {Cursor}
 */
export function cursor(label, nearest, text, show, pick) {
  const element = h("div", {
    class: "chart-cursor",
    role: "slider",
    tabindex: 0,
    "aria-label": `${label}: arrow keys read single values`,
    "aria-valuemin": 0,
    "aria-valuemax": 0,
  });
  let count = 0;
  /** @type {number | null} */
  let index = null;
  const set = (/** @type {number | null} */ to) => {
    index = to === null || count === 0 ? null : Math.min(Math.max(to, 0), count - 1);
    describe();
    show(index);
  };
  // Unless somebody reads, nothing changes here with new data: screen readers would say it each time.
  const describe = () => {
    element.setAttribute("aria-valuenow", String(index ?? 0));
    setAttribute(element, "aria-valuetext", index === null ? "no value chosen" : text(index));
  };
  element.addEventListener("pointermove", (event) => set(nearest(event.offsetX)));
  element.addEventListener("pointerdown", (event) => set(nearest(event.offsetX)));
  element.addEventListener("pointerleave", () => set(null));
  element.addEventListener("blur", () => set(null));
  element.addEventListener("click", () => {
    if (index !== null) pick?.(index);
  });
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const at = index ?? count;
    const large = Math.max(Math.round(count / 10), 1);
    /** @type {Record<string, number>} */
    const moves = {
      ArrowLeft: at - 1,
      ArrowDown: at - 1,
      ArrowRight: index === null ? count - 1 : at + 1,
      ArrowUp: index === null ? count - 1 : at + 1,
      PageDown: at - large,
      PageUp: at + large,
      Home: 0,
      End: count - 1,
    };
    const to = moves[event.key];
    if (to !== undefined) set(to);
    else if (event.key === "Escape" && index !== null) set(null);
    else if (event.key === "Enter" && index !== null && pick) pick(index);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const resize = (/** @type {number} */ now, moved = 0) => {
    count = now;
    if (index !== null) index = count ? Math.min(Math.max(index + moved, 0), count - 1) : null;
    element.setAttribute("aria-valuemax", String(Math.max(count - 1, 0)));
    if (index !== null) describe();
  };
  describe();
  return { element, resize, index: () => index };
}

/**
 * By how many places what is read has moved, as there are other values.
 *
 * @param {number[]} times of the values now
 * @param {number | null} index of the one that is read
 * @param {number | undefined} moment its time
 */
export function movedBy(times, index, moment) {
  if (index === null || moment === undefined) return 0;
  const found = times.findIndex((each) => each >= moment);
  return found < 0 ? 0 : found - index;
}

/**
 * The box beside the cursor that has the values of a moment.
 *
 * @returns {{element: HTMLElement, show: (lines: string[], x: number, width: number) => void,
 *   hide: () => void}}
 */
export function readout() {
  // Not for screen readers: the slider says the same.
  const element = h("div", { class: "chart-readout", "aria-hidden": true, hidden: true });
  return {
    element,
    show(lines, x, width) {
      element.replaceChildren(...lines.map((line) => h("div", null, line)));
      element.hidden = false;
      const isRight = x > width / 2;
      element.style.left = isRight ? "auto" : `${x + 8}px`;
      element.style.right = isRight ? `${width - x + 8}px` : "auto";
    },
    hide() {
      element.hidden = true;
    },
  };
}

/**
 * Which item is the nearest to a place; null if there is none.
 *
 * @template T
 * @param {T[]} items in the order of their places
 * @param {(item: T) => number} place
 * @param {number} wanted
 */
export function nearestIndex(items, place, wanted) {
  /** @type {number | null} */
  let best = null;
  let least = Infinity;
  items.forEach((item, index) => {
    const distance = Math.abs(place(item) - wanted);
    if (distance < least) [best, least] = [index, distance];
  });
  return /** @type {number | null} */ (best);
}
