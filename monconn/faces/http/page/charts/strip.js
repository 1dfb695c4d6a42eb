/** When something was there. */
import { h, setAttribute, svg } from "../dom.js";
import { formatDuration, formatTime } from "../units.js";
import { patternId, patternShape } from "./series.js";

/**
 * @template T
 * @typedef {import("./chart.js").Chart<T>} Chart
 */

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
 * @returns {Chart<{since: number, until: number, spans: StripSpan[],
 *   marks?: {at: number, text: string}[]}>}
 */
export function strip({ label }) {
  const id = patternId();
  const picture = svg("svg", {
    class: "chart-strip",
    role: "img",
    viewBox: "0 0 1000 20",
    preserveAspectRatio: "none",
    "aria-label": label,
  });
  const element = h("span", { class: "strip" }, picture);
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
      const parts = [svg("defs", null, patternShape(id, 1))];
      for (const span of spans) {
        const from = Math.max(span.from, since);
        const to = Math.min(span.to, until);
        if (to <= from) continue;
        seconds[span.state] = (seconds[span.state] ?? 0) + to - from;
        const y = tops[span.state];
        const shape = { x: x(from), y, width: Math.max(x(to) - x(from), 0.7), height: 19 - y };
        const more = span.text ? `: ${span.text}` : "";
        const title = `${words[span.state]} ${formatTime(from)} – ${formatTime(to)}${more}`;
        parts.push(
          svg("rect", { class: `strip-${span.state}`, ...shape }, svg("title", null, title)),
        );
      }
      const seen = marks.filter((mark) => mark.at >= since && mark.at <= until);
      for (const mark of seen) {
        const title = svg("title", null, `${formatTime(mark.at)} ${mark.text}`);
        const at = x(mark.at);
        parts.push(svg("path", { class: "strip-mark", d: `M${at} 0L${at} 20` }, title));
      }
      picture.replaceChildren(...parts);
      // Of what is not known, nothing is said to be absence.
      const known = (seconds.present ?? 0) + (seconds.silent ?? 0) + (seconds.absent ?? 0);
      const share = known > 0 ? Math.round((100 * (seconds.present ?? 0)) / known) : 0;
      const texts = [known > 0 ? `present ${share} % of ${formatDuration(known)}` : "not known"];
      for (const state of /** @type {const} */ (["silent", "absent"])) {
        const total = seconds[state] ?? 0;
        const times = spans.filter((each) => each.state === state).length;
        const often = times === 1 ? "once" : `${times} times`;
        if (total > 0) texts.push(`${words[state]} ${often}, ${formatDuration(total)} in all`);
      }
      const alarms = seen.map((mark) => `${formatTime(mark.at)} ${mark.text}`);
      if (alarms.length > 5) alarms.splice(5, alarms.length, `${alarms.length - 5} more`);
      if (alarms.length) texts.push(`alarms: ${alarms.join("; ")}`);
      setAttribute(picture, "aria-label", `${label}: ${texts.join(", ")}`);
    },
    remove: () => element.remove(),
  };
}
