/**
 * What has happened to a connection, in the order of time, as a list with the durations between.
 */
import { h } from "../dom.js";
import { patchChildren } from "./patch.js";
import { formatBytes, formatDuration, formatTime } from "../units.js";

/** @typedef {import("../types.js").Row} Row */

/**
 * @typedef {object} Moment
 * @property {string} key
 * @property {number} seconds After the opening.
 * @property {string} text
 * @property {string} [more]
 * @property {"" | "good" | "warn" | "bad"} tone
 */

/** What the last item of a connection that has not ended is called. */
const NOW = /** @type {Record<string, string>} */ ({
  connecting: "Connecting to the backend",
  half_closed: "Half-closed",
  closing: "Being closed",
});
/** What the end of a side is called. */
const ENDS = /** @type {Record<string, string>} */ ({
  fin: "in good order (FIN)",
  reset: "by a reset (RST)",
  timeout: "vanished, and does not answer",
});

/**
 * The moments that a row knows, the earliest first.
 *
 * @param {Row} row
 * @returns {Moment[]}
 */
function momentsOf(row) {
  /** @type {Moment[]} */
  const moments = [{ key: "accepted", seconds: 0, text: "Client accepted", tone: "" }];
  const add = (/** @type {Moment} */ moment) => moments.push(moment);
  const isOver = row.state === "closed" || Boolean(row.closed_at);
  if (typeof row.connect_seconds === "number") {
    add({ key: "connected", seconds: row.connect_seconds, text: "Backend connected", tone: "" });
  }
  for (const [direction, side] of [
    ["up", "client"],
    ["down", "backend"],
  ]) {
    const first = row[`first_${direction}_seconds`];
    const last = row[`last_${direction}_seconds`];
    if (typeof first === "number") {
      add({ key: `first_${direction}`, seconds: first, text: `First byte of the ${side}`, tone: "" });
    }
    if (isOver && typeof last === "number" && last > first) {
      const more = `${formatBytes(row[String(direction)])} in all`;
      add({ key: `last_${direction}`, seconds: last, text: `Last byte of the ${side}`, more, tone: "" });
    }
    const ended = row[`${side}_ended_seconds`];
    const how = String(row[`${side}_end`] ?? "none");
    if (typeof ended === "number" && how !== "none") {
      add({
        key: `${side}_ended`,
        seconds: ended,
        text: `The ${side} ended`,
        more: ENDS[how] ?? how,
        tone: how === "fin" ? "" : "bad",
      });
    }
  }
  if (isOver) {
    const seconds = Number(row.duration_seconds ?? row.age_seconds ?? 0);
    const isOrderly = row.code === "--" || row.code === undefined;
    const word = row.refusal ?? row.reason ?? "";
    const text = row.refusal ? "Refused" : "Closed";
    add({ key: "closed", seconds, text, more: word, tone: isOrderly ? "" : "bad" });
  }
  // Stable: what happened at the same moment stays in the order of a connection's life.
  return moments.sort((one, other) => one.seconds - other.seconds);
}

/**
 * The list of moments as an element; the space between two grows with the time between, but by its
 * logarithm: milliseconds and hours are beside each other.
 *
 * @param {Element} list An `ol`.
 * @param {Row} row
 */
export function drawLife(list, row) {
  const moments = momentsOf(row);
  const opened = new Date(row.opened_at).getTime() / 1000;
  const items = moments.flatMap((moment, index) => {
    const before = moments[index - 1];
    const passed = before === undefined ? 0 : moment.seconds - before.seconds;
    const at = formatTime(opened + moment.seconds);
    return [
      ...(before === undefined ? [] : [gap(passed, `${formatDuration(passed)} later`)]),
      h(
        "li",
        { class: `moment ${moment.tone}`, dataset: { key: moment.key } },
        h("span", { class: "moment-text" }, moment.text),
        moment.more ? h("span", { class: "moment-more" }, moment.more) : null,
        h("span", { class: "moment-at" }, at),
      ),
    ];
  });
  if (row.state !== "closed" && !row.closed_at) {
    const last = moments[moments.length - 1]?.seconds ?? 0;
    const passed = Math.max(Number(row.age_seconds) - last, 0);
    const idle = `no byte for ${formatDuration(Number(row.idle_seconds))}`;
    items.push(
      gap(passed, formatDuration(passed)),
      h(
        "li",
        { class: "moment now", dataset: { key: "now" } },
        h("span", { class: "moment-text" }, NOW[row.state] ?? "Live"),
        h("span", { class: "moment-more" }, idle),
        h("span", { class: "moment-at" }, `${formatDuration(Number(row.age_seconds))} old`),
      ),
    );
  }
  patchChildren(list, items);
}

/**
 * @param {number} seconds
 * @param {string} text
 */
function gap(seconds, text) {
  const grow = 1 + Math.log10(1 + seconds * 1000);
  return h("li", { class: "moment-gap", style: { "flex-grow": grow.toFixed(2) } }, h("span", null, text));
}
