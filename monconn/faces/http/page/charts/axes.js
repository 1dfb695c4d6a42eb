/** The axes of charts: where they have marks, and what these say. */
import { svg } from "../dom.js";
import { twoDigits } from "../units.js";

/** The height of the texts below a time axis, in pixels. */
export const AXIS = 22;
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
  const hours = `${twoDigits(date.getHours())}:${twoDigits(date.getMinutes())}`;
  if (step < 60) return `${hours}:${twoDigits(date.getSeconds())}`;
  const isMidnight = date.getHours() === 0 && date.getMinutes() === 0;
  if (step >= 86400 || (isMidnight && step >= 3600)) {
    return `${twoDigits(date.getMonth() + 1)}-${twoDigits(date.getDate())}`;
  }
  return hours;
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

/**
 * The marks of a time axis at the bottom of a picture, and a line up from each.
 *
 * @param {number} since
 * @param {number} until
 * @param {number} width of the picture
 * @param {number} bottom where the axis is, in pixels from the top
 * @param {(at: number) => number} x
 * @returns {SVGElement[]}
 */
export function timeAxis(since, until, width, bottom, x) {
  return timeMarks(since, until, Math.floor(width / 80)).flatMap((mark) => {
    const at = x(mark.at);
    const end = at > width - 24 ? "end" : at < 24 ? "start" : "middle";
    return [
      svg("line", { class: "chart-grid", x1: at, x2: at, y1: 0, y2: bottom }),
      svg("text", { class: "chart-text", x: at, y: bottom + AXIS - 6, "text-anchor": end }, mark.text),
    ];
  });
}
