/**
 * Client, monconn and backend with what Linux knows of the two TCP connections between them, and
 * where the server's diagnosis says that the time is lost.
 */
import { h } from "../dom.js";
import { formatBytes, formatCount, formatDuration, formatRate } from "../units.js";
import { patchChildren } from "./patch.js";

/** @typedef {import("../types.js").Row} Row */
/** @typedef {"client" | "client_link" | "monconn" | "backend_link" | "backend"} Place */

/** Where each cause that a diagnosis names is; one that is missing here is shown as text alone. */
const PLACES = /** @type {Record<string, Place[]>} */ ({
  "slow network to the client": ["client_link"],
  "slow network to the backend": ["backend_link"],
  "slow client": ["client"],
  "slow backend": ["backend"],
  "slow to connect": ["backend_link", "backend"],
  "limited by bandwidth": ["monconn"],
  "client unreachable": ["client_link", "client"],
  "backend unreachable": ["backend_link", "backend"],
});
const CALM = ["nothing slow", "unknown"];

/**
 * @param {Element} root
 * @param {Row} row
 */
export function drawSides(root, row) {
  const looksLike = String(row.diagnosis?.looks_like ?? "unknown");
  const because = Array.isArray(row.diagnosis?.because) ? row.diagnosis.because : [];
  const places = PLACES[looksLike] ?? [];
  const isBad = !CALM.includes(looksLike);
  const isOver = Boolean(row.closed_at);
  const mark = (/** @type {Place} */ place) => (places.includes(place) ? " suspect" : "");
  const flag = (/** @type {Place} */ place) =>
    places[0] === place ? h("span", { class: "suspect-flag" }, `⚠ ${looksLike}`) : null;
  const drawn = h(
    "div",
    null,
    h(
      "p",
      { class: `verdict ${isBad ? "warn" : ""}` },
      h("strong", null, isBad ? `⚠ Looks like: ${looksLike}` : `Looks like: ${looksLike}`),
    ),
    because.length
      ? h("ul", { class: "because" }, because.map((/** @type {any} */ each) => h("li", null, String(each))))
      : null,
    h(
      "div",
      { class: "sides" },
      h(
        "div",
        { role: "group", class: `side-box${mark("client")}`, "aria-label": "Client" },
        h("h3", null, "Client"),
        h("p", { class: "side-name" }, row.client),
        flag("client"),
        ending(row, "client"),
      ),
      linkBetween("client", row, mark("client_link"), flag("client_link")),
      h(
        "div",
        { role: "group", class: `side-box own${mark("monconn")}`, "aria-label": "monconn" },
        h("h3", null, "monconn"),
        h("p", { class: "side-name" }, row.service),
        flag("monconn"),
        row.limited_seconds ? h("p", null, `not read from for ${formatDuration(row.limited_seconds)}: bandwidth`) : null,
        row.is_paused ? h("p", null, "its service is paused") : null,
      ),
      row.backend
        ? linkBetween("backend", row, mark("backend_link"), flag("backend_link"))
        : h("div", { class: "side-link" }, h("p", { class: "muted" }, "a program's own factory")),
      h(
        "div",
        { role: "group", class: `side-box${mark("backend")}`, "aria-label": "Backend" },
        h("h3", null, "Backend"),
        h("p", { class: "side-name" }, row.backend || "within the program"),
        flag("backend"),
        ending(row, "backend"),
      ),
    ),
    isOver ? h("p", { class: "muted" }, "The figures are those of the moment at which the sockets were closed.") : null,
  );
  patchChildren(root, [...drawn.childNodes]);
}

/**
 * @param {Row} row
 * @param {"client" | "backend"} side
 */
function ending(row, side) {
  const unreachable = row[`${side}_unreachable_seconds`];
  const heard = row[`${side}_last_heard_seconds`];
  const end = row[`${side}_end`];
  const texts = [];
  if (end && end !== "none") texts.push(`ended: ${end}`);
  if (typeof unreachable === "number") texts.push(`unreachable for ${formatDuration(unreachable)}`);
  else if (typeof heard === "number") {
    texts.push(`heard ${formatDuration(heard)} ${row.closed_at ? "before the end" : "ago"}`);
  }
  return texts.map((text) => h("p", { class: "side-more" }, text));
}

/**
 * One TCP connection: the wire, and its figures.
 *
 * @param {"client" | "backend"} side
 * @param {Row} row
 * @param {string} mark
 * @param {HTMLElement | null} flag
 */
function linkBetween(side, row, mark, flag) {
  const tcp = row[`${side}_tcp`];
  const wire = h(
    "div",
    { class: "wire", "aria-hidden": "true" },
    h("span", { class: "wire-up" }, `${formatBytes(row.up ?? 0)} →`),
    h("span", { class: "wire-down" }, `← ${formatBytes(row.down ?? 0)}`),
  );
  return h(
    "div",
    { role: "group", class: `side-link${mark}`, "aria-label": `TCP between monconn and the ${side}` },
    wire,
    flag,
    tcp ? figures(side, tcp) : h("p", { class: "muted" }, missing(row, side)),
  );
}

/**
 * @param {Row} row
 * @param {"client" | "backend"} side
 */
function missing(row, side) {
  const address = String(row[side] ?? "");
  if (address.startsWith("unix")) return "A UNIX socket: the kernel has no figures of it.";
  if (side === "backend" && typeof row.connect_seconds !== "number") return "Not connected.";
  return "The kernel's figures are not known.";
}

/**
 * @param {"client" | "backend"} side
 * @param {Row} tcp Linux' tcp_info, as the API has it.
 */
function figures(side, tcp) {
  const number = (/** @type {string} */ name) => Number(tcp[name] ?? 0);
  const share = (/** @type {number} */ part, /** @type {number} */ whole) => (whole > 0 ? Math.min(part / whole, 1) : 0);
  const lines = [
    {
      name: "Round trip",
      text: `${formatDuration(number("rtt_seconds"))} ± ${formatDuration(number("rtt_variation_seconds"))}`,
      help: `Smoothed; the least was ${formatDuration(number("min_rtt_seconds"))}. Long: the network is slow, or far.`,
    },
    {
      name: "Sent again",
      text: `${formatCount(number("retransmits"))} of ${formatCount(number("segments_sent"))} segments`,
      help: "Retransmissions: segments that were lost, or not acknowledged in time.",
      part: share(number("retransmits"), number("segments_sent")),
    },
    {
      name: "Unacknowledged",
      text: `${formatCount(number("unacked_segments"))} of ${formatCount(number("cwnd_segments"))} segments`,
      help: `In flight, of the congestion window; ${formatCount(number("lost_segments"))} are taken for lost.`,
      part: share(number("unacked_segments"), number("cwnd_segments")),
    },
    {
      name: "Send queue",
      text: formatBytes(number("not_sent_bytes")),
      help: `Bytes for the ${side} that the kernel holds and has not sent yet.`,
    },
    {
      name: "Window full",
      text: `${formatDuration(number("window_limited_seconds"))} of ${formatDuration(number("busy_seconds"))}`,
      help: `How long the receive window of the ${side} was full, of the time with something to send: it does not read fast enough.`,
      part: share(number("window_limited_seconds"), number("busy_seconds")),
    },
    {
      name: "Delivery rate",
      text: formatRate(number("delivery_rate")),
      help: `What has reached the ${side} a second, lately.`,
    },
  ];
  return h(
    "dl",
    { class: "tcp" },
    lines.flatMap(({ name, text, help, part }) => [
      h("dt", { title: help }, name),
      h(
        "dd",
        { title: help },
        text,
        part ? h("span", { class: "share", "aria-hidden": "true" }, h("span", { style: { width: `${(100 * part).toFixed(1)}%` } })) : null,
      ),
    ]),
  );
}

const MEANINGS = [
  ["Round trip", "How long a segment and its acknowledgement take, smoothed, and how much that varies. Long: the network is slow, or far."],
  ["Sent again", "Segments that were lost, or not acknowledged in time, of all that had data. Some percent of them make a connection slow."],
  ["Unacknowledged", "Segments that are under way, of the congestion window: what the kernel dares to have under way."],
  ["Send queue", "Bytes that the kernel holds and has not sent yet. It grows if the network, or who reads there, is slower than who sends."],
  ["Window full", "How long the receive window of that side was full, of the time with something to send: its program does not read fast enough."],
  ["Delivery rate", "What has reached that side a second, lately, as the kernel measures it."],
];

/** What the figures mean, for those who want to know. */
export function figuresHelp() {
  return h(
    "details",
    { class: "figures-help" },
    h("summary", null, "What these figures mean"),
    h("dl", { class: "connection-facts" }, MEANINGS.flatMap(([name, text]) => [h("dt", null, name), h("dd", null, text)])),
  );
}
