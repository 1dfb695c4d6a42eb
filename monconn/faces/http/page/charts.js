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

/**
 * @template T
 * @typedef {object} Chart
 * @property {HTMLElement} element
 * @property {(data: T) => void} update draws other data
 * @property {() => void} remove ends what it watches, and takes it out of the page
 */

/** @typedef {(value: number) => string} Format */

/**
 * @typedef {object} Series
 * @property {string} label
 * @property {number} [colour] 1 to 8, as in charts.css; by its place if left out
 * @property {number} [pattern] of bars: 0 plain, 1 rising lines, 2 dots, 3 flat lines
 */

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8;
const PATTERNS = 4;
let made = 0; // ids of patterns must be unique in the document

/**
 * An element of SVG. Null and undefined attributes and children are left out.
 *
 * @param {string} tag
 * @param {Record<string, string | number | null | undefined>} [attributes]
 * @param {...(Node | string | null | undefined)} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  for (const child of children) {
    if (child !== null && child !== undefined) element.append(child);
  }
  return element;
}

/**
 * @param {string} tag
 * @param {string} className
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
function html(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

// -- axes

/** Distances of marks on a time axis, in seconds. */
const TIME_STEPS = [
  1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400,
  172800, 604800, 1209600, 2592000, 7776000, 31536000,
];

/**
 * Where a time axis has marks: at round local times.
 *
 * @param {number} since
 * @param {number} until
 * @param {number} most how many there is room for
 * @returns {{at: number, text: string}[]}
 */
export function timeMarks(since, until, most) {
  const span = until - since;
  if (!(span > 0) || most < 1) return [];
  const step = TIME_STEPS.find((each) => span / each <= most) ?? span;
  // Days begin at local midnight, which is not a multiple of a day since 1970.
  const zone = -new Date(since * 1000).getTimezoneOffset() * 60;
  const marks = [];
  for (let at = Math.ceil((since + zone) / step) * step - zone; at <= until; at += step) {
    marks.push({ at, text: timeText(at, step) });
  }
  return marks;
}

/**
 * @param {number} at
 * @param {number} step
 */
function timeText(at, step) {
  const date = new Date(at * 1000);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const hours = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (step < 60) return `${hours}:${two(date.getSeconds())}`;
  const isMidnight = date.getHours() === 0 && date.getMinutes() === 0;
  if (step >= 86400 || (isMidnight && step >= 3600)) {
    return `${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  }
  return hours;
}

/**
 * Date and time of a moment, in full.
 *
 * @param {number} at
 */
export function momentText(at) {
  const date = new Date(at * 1000);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return day === dayText(Date.now() / 1000) ? time : `${day} ${time}`;
}

/** @param {number} at */
function dayText(at) {
  const date = new Date(at * 1000);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

/**
 * A round number that is not lower than the highest value: the top of an axis.
 *
 * @param {number} highest
 * @param {boolean} isBinary whether powers of 1024 are round, as for bytes
 */
export function roundTop(highest, isBinary) {
  if (!(highest > 0)) return 1;
  const base = isBinary ? 1024 : 10;
  const power = base ** Math.floor(Math.log(highest) / Math.log(base));
  const steps = isBinary ? [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] : [1, 2, 4, 5, 10];
  return (steps.find((each) => each * power >= highest) ?? base) * power;
}

// -- what all charts with a size share

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
function frame(className, height, draw) {
  const picture = svg("svg", { class: "chart-picture", height, "aria-hidden": "true" });
  const summary = html("p", "chart-summary");
  const element = html("figure", `chart ${className}`, picture, summary);
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
function cursor(label, nearest, text, show, pick) {
  const element = html("div", "chart-cursor");
  element.tabIndex = 0;
  element.setAttribute("role", "slider");
  element.setAttribute("aria-valuemin", "0");
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
    element.setAttribute("aria-valuetext", index === null ? "no value chosen" : text(index));
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
  element.setAttribute("aria-label", `${label}: arrow keys read single values`);
  element.setAttribute("aria-valuemax", "0");
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
function movedBy(times, index, moment) {
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
function readout() {
  const element = html("div", "chart-readout");
  element.setAttribute("aria-hidden", "true"); // the slider says the same
  element.hidden = true;
  return {
    element,
    show(lines, x, width) {
      element.replaceChildren(...lines.map((line) => html("div", "", line)));
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

/** @param {Series} series @param {number} place */
const colourOf = (series, place) => ((series.colour ?? place + 1) - 1) % COLOURS + 1;

/** @param {Series} series @param {number} place */
const patternOf = (series, place) =>
  (series.pattern ?? Math.floor(place / COLOURS)) % PATTERNS;

// -- sparkline

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
  const element = html("span", "sparkline", picture);
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
      picture.setAttribute("aria-label", `${label}: ${text}${high}${span}`);
    },
    remove: () => element.remove(),
  };
}

// -- lines over time

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
  const axis = 22;
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
    const middle = Math.round((height - axis) * share);
    const scale = Math.min((middle - 4) / first, isMirrored ? (height - axis - middle - 4) / second : Infinity);
    /** @type {Node[]} */
    const parts = [];
    for (const mark of timeMarks(from, to, Math.floor(width / 80))) {
      const at = x(mark.at);
      parts.push(svg("line", { class: "chart-grid", x1: at, x2: at, y1: 0, y2: height - axis }));
      const end = at > width - 24 ? "end" : at < 24 ? "start" : "middle";
      parts.push(
        svg("text", { class: "chart-text", x: at, y: height - 6, "text-anchor": end }, mark.text),
      );
    }
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
      parts.push(svg("line", { class: "chart-mark", x1: at, x2: at, y1: 0, y2: height - axis }));
      box.show([momentText(sample.at), ...valueTexts(sample)], at, width);
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
      return sample ? `${momentText(sample.at)}: ${valueTexts(sample).join(", ")}` : "";
    },
    () => shape.draw(),
  );
  const legend = html("figcaption", "chart-legend");
  legend.append(
    ...series.map((each, place) =>
      html(
        "span",
        "chart-key",
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
      shape.summary.textContent = `${label}: ${what}`;
      reader.resize(samples.length, movedBy(samples.map((each) => each.at), read, moment));
      shape.draw();
    },
    remove: shape.remove,
  };
}

/**
 * @template T
 * @param {T[]} items in the order of their places
 * @param {(item: T) => number} place
 * @param {number} wanted
 */
function nearestIndex(items, place, wanted) {
  let best = null;
  let least = Infinity;
  items.forEach((item, index) => {
    const distance = Math.abs(place(item) - wanted);
    if (distance < least) [best, least] = [index, distance];
  });
  return /** @type {number | null} */ (best);
}

/**
 * @param {"line" | "bar"} kind
 * @param {number} colour
 * @param {number} pattern
 * @param {boolean} [isDashed]
 */
function swatch(kind, colour, pattern, isDashed = false) {
  const picture = svg("svg", { class: "chart-swatch", width: 18, height: 12, "aria-hidden": "true" });
  if (kind === "line") {
    const look = `chart-line series-${colour}${isDashed ? " dashed" : ""}`;
    picture.append(svg("path", { class: look, d: "M1 6L17 6" }));
    return picture;
  }
  const id = `chart-pattern-${(made += 1)}`;
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

/** @param {string} id @param {number} pattern */
function patternShape(id, pattern) {
  const cell = svg("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" });
  if (pattern === 1) cell.append(svg("path", { class: "chart-hatch", d: "M-1 7L7 -1M-1 1L1 -1M5 7L7 5" }));
  if (pattern === 2) cell.append(svg("circle", { class: "chart-dot", cx: 3, cy: 3, r: 1.3 }));
  if (pattern === 3) cell.append(svg("path", { class: "chart-hatch", d: "M0 3L6 3" }));
  return cell;
}

// -- stacked bars

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
  const axis = 22;
  const prefix = `chart-pattern-${(made += 1)}`;
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
  const room = height - axis - 6;

  const draw = (/** @type {number} */ width, /** @type {SVGElement} */ picture) => {
    const from = since ?? buckets[0]?.since ?? 0;
    const to = Math.max(until ?? buckets.at(-1)?.until ?? 1, from + 1);
    x = (at) => ((at - from) / (to - from)) * width;
    top = roundTop(Math.max(0, ...buckets.map((each) => sum(partsOf(each)))), false);
    /** @type {Node[]} */
    const parts = [svg("defs", {}, ...[1, 2, 3].map((each) => patternShape(`${prefix}-${each}`, each)))];
    for (const mark of timeMarks(from, to, Math.floor(width / 80))) {
      const at = x(mark.at);
      const end = at > width - 24 ? "end" : at < 24 ? "start" : "middle";
      parts.push(svg("line", { class: "chart-grid", x1: at, x2: at, y1: 0, y2: height - axis }));
      parts.push(
        svg("text", { class: "chart-text", x: at, y: height - 6, "text-anchor": end }, mark.text),
      );
    }
    const floor = height - axis;
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
        svg("text", { class: "chart-text chart-halo", x: 2, y: edge + 11 }, top.toLocaleString("en-US")),
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
      box.show([`${momentText(bucket.since)} – ${momentText(bucket.until)}`, ...lines(bucket)], at, width);
    } else {
      box.hide();
    }
  };
  const lines = (/** @type {Bucket} */ bucket) => {
    const counts = partsOf(bucket);
    const found = names.filter((name) => counts.get(name));
    if (found.length === 0) return ["none"];
    return found.map((name) => `${labelOf(name)} ${(counts.get(name) ?? 0).toLocaleString("en-US")}`);
  };
  const hit = (/** @type {Bucket} */ bucket) => {
    const counts = partsOf(bucket);
    let under = height - axis;
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
      return bucket ? `${momentText(bucket.since)}: ${lines(bucket).join(", ")}` : "";
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
  const legend = html("figcaption", "chart-legend");
  /** @type {Map<string, {button: HTMLElement, count: HTMLElement}>} */
  const keys = new Map();
  names.forEach((name, order) => {
    const look = /** @type {Series} */ (series.get(name));
    const count = html("span", "chart-count");
    const button = html(
      onPick ? "button" : "span",
      "chart-key",
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
        count.textContent = ` ${total.toLocaleString("en-US")}`;
        if (onPick) button.setAttribute("aria-pressed", String(name === chosen));
      }
      const found = names.filter((name) => totals.get(name));
      const what = found.map((name) => `${labelOf(name)} ${totals.get(name)}`).join(", ");
      shape.summary.textContent = `${label}: ${what || empty}`;
      reader.resize(buckets.length, movedBy(buckets.map((each) => each.since), read, moment));
      shape.draw();
    },
    remove: shape.remove,
  };
}

// -- a strip of presence

/**
 * @typedef {object} StripSpan
 * @property {number} from
 * @property {number} to
 * @property {"present" | "silent" | "absent" | "unknown"} state
 * @property {string} [text] more, for the tooltip
 */

/**
 * When something was there, over a period: full height where it was present, half of it, hatched,
 * where it was connected and silent, a thin line where it was absent, and a dashed box where that is
 * not known. Marks stand for alarms.
 *
 * @param {object} options
 * @param {string} options.label such as the name of the device
 * @param {Format} [options.format] of durations in seconds
 * @returns {Chart<{since: number, until: number, spans: StripSpan[],
 *   marks?: {at: number, text: string}[]}>}
 */
export function strip({ label, format = (seconds) => `${Math.round(seconds)} s` }) {
  const id = `chart-pattern-${(made += 1)}`;
  const picture = svg("svg", {
    class: "chart-strip",
    role: "img",
    viewBox: "0 0 1000 20",
    preserveAspectRatio: "none",
    "aria-label": label,
  });
  const element = html("span", "strip", picture);
  const words = { present: "present", silent: "silent", absent: "absent", unknown: "not known" };
  const tops = { present: 2, silent: 10, absent: 17, unknown: 3 };
  return {
    element,
    update({ since, until, spans, marks = [] }) {
      const whole = Math.max(until - since, 1);
      const x = (/** @type {number} */ at) =>
        Math.min(Math.max(((at - since) / whole) * 1000, 0), 1000);
      /** @type {Record<string, number>} */
      const seconds = { present: 0, silent: 0, absent: 0, unknown: 0 };
      /** @type {Node[]} */
      const parts = [svg("defs", {}, patternShape(id, 1))];
      for (const span of spans) {
        const from = Math.max(span.from, since);
        const to = Math.min(span.to, until);
        if (to <= from) continue;
        seconds[span.state] = (seconds[span.state] ?? 0) + to - from;
        const y = tops[span.state];
        const shape = { x: x(from), y, width: Math.max(x(to) - x(from), 0.7), height: 19 - y };
        const more = span.text ? `: ${span.text}` : "";
        const title = `${words[span.state]} ${momentText(from)} – ${momentText(to)}${more}`;
        parts.push(
          svg("rect", { class: `strip-${span.state}`, ...shape }, svg("title", {}, title)),
        );
      }
      const seen = marks.filter((mark) => mark.at >= since && mark.at <= until);
      for (const mark of seen) {
        const title = svg("title", {}, `${momentText(mark.at)} ${mark.text}`);
        const at = x(mark.at);
        parts.push(svg("path", { class: "strip-mark", d: `M${at} 0L${at} 20` }, title));
      }
      picture.replaceChildren(...parts);
      // Of what is not known, nothing is said to be absence.
      const known = (seconds.present ?? 0) + (seconds.silent ?? 0) + (seconds.absent ?? 0);
      const share = known > 0 ? Math.round((100 * (seconds.present ?? 0)) / known) : 0;
      const texts = [known > 0 ? `present ${share} % of ${format(known)}` : "not known"];
      for (const state of /** @type {const} */ (["silent", "absent"])) {
        const total = seconds[state] ?? 0;
        const times = spans.filter((each) => each.state === state).length;
        const often = times === 1 ? "once" : `${times} times`;
        if (total > 0) texts.push(`${words[state]} ${often}, ${format(total)} in all`);
      }
      const alarms = seen.map((mark) => `${momentText(mark.at)} ${mark.text}`);
      if (alarms.length > 5) alarms.splice(5, alarms.length, `${alarms.length - 5} more`);
      if (alarms.length) texts.push(`alarms: ${alarms.join("; ")}`);
      picture.setAttribute("aria-label", `${label}: ${texts.join(", ")}`);
    },
    remove: () => element.remove(),
  };
}

// -- points and spans on one axis

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
 * @param {Format} [options.format] of durations in seconds
 * @param {(item: TimelineSpan | TimelinePoint) => void} [options.onPick]
 * @returns {Chart<{since: number, until: number, lanes: Lane[]}>}
 */
export function timeline({ label, format = (seconds) => `${Math.round(seconds)} s`, onPick }) {
  const tall = 26;
  const head = 14;
  const axis = 22;
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
  const element = html("div", "chart-holder");
  const textOf = (/** @type {number} */ index) => {
    const found = items[index];
    if (!found) return "";
    const { item, from, to } = found;
    const lane = lanes[found.lane]?.label ?? "";
    const times = to > from ? `${momentText(from)}, for ${format(to - from)}` : momentText(from);
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
    for (const mark of timeMarks(since, until, Math.floor(width / 80))) {
      const at = x(mark.at);
      const end = at > width - 24 ? "end" : at < 24 ? "start" : "middle";
      parts.push(svg("line", { class: "chart-grid", x1: at, x2: at, y1: 0, y2: height }));
      parts.push(
        svg("text", { class: "chart-text", x: at, y: height + axis - 6, "text-anchor": end }, mark.text),
      );
    }
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
      const times = to > from ? [`${momentText(from)} – ${momentText(to)}`, format(to - from)] : [momentText(from)];
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
      const height = lanes.length * tall + axis;
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
      shape.summary.textContent = `${label}: ${counts.join(", ")}`;
      reader.resize(items.length);
      shape.draw();
    },
    remove() {
      shape?.remove();
      element.remove();
    },
  };
}
