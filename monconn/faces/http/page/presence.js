/**
 * When devices were there: what the server knows of it, as spans for strips and timelines.
 */
import { get } from "./api.js";
import { asDate, formatDuration } from "./units.js";

/**
 * @typedef {import("./types.js").Row} Row
 * @typedef {import("./charts/strip.js").StripSpan} StripSpan
 *
 * @typedef {object} Presence
 * @property {number} since Seconds of the wall clock, as are all times here.
 * @property {number} until
 * @property {string} problem Why the history says nothing; empty if it was asked, or there is none.
 * @property {Map<string, Row>} rows By `keyOf`.
 */

const MOST_NAMES = 100;
/** Times are of milliseconds: what is shorter may be a matter of rounding. */
const LEAST_SECONDS = 0.0025;

/** Why not everything is known, in words. */
const UNKNOWN = /** @type {Record<string, string>} */ ({
  not_recorded: "not recorded",
  not_running: "monconn did not run",
  killed: "monconn was killed: connections that were live then are not recorded",
});

/**
 * @param {{service: string, device: string}} row
 */
export function keyOf(row) {
  return `${row.service}\n${row.device}`;
}

/**
 * Ask when some devices were there.
 *
 * @param {string[]} names Beyond a hundred, the others are left out.
 * @param {import("./pickers.js").Period} period
 * @param {string} [service]
 * @returns {Promise<Presence>}
 * @throws {import("./api.js").Problem}
 */
export async function getPresence(names, period, service) {
  const wanted = [...new Set(names)].slice(0, MOST_NAMES).sort();
  const escaped = wanted.map((name) => name.replace(/[\\,]/g, "\\$&")).join(",");
  const answer = await get("devices/presence", { names: escaped, service, ...period, max_age: 5 });
  return {
    since: asDate(answer.since).getTime() / 1000,
    until: asDate(answer.until).getTime() / 1000,
    problem: answer.history_problem ?? "",
    rows: new Map(answer.rows.map((/** @type {Row} */ row) => [keyOf(/** @type {any} */ (row)), row])),
  };
}

/**
 * What a strip shows of one device: each moment of the period has one state.
 *
 * @param {Row | undefined} row Undefined if nothing is known.
 * @param {number} since
 * @param {number} until
 * @returns {{spans: StripSpan[], marks: {at: number, text: string}[]}}
 */
export function stripOf(row, since, until) {
  if (row === undefined) {
    return { spans: [{ from: since, to: until, state: "unknown" }], marks: [] };
  }
  const alarms = /** @type {Row[]} */ (row.alarms);
  const silent = alarms.filter((each) => each.alarm === "silent").map((each) => [each.since ?? since, each.until ?? until]);
  const unknown = /** @type {Row[]} */ (row.unknown);
  const edges = new Set([since, until]);
  for (const [from, to] of [...row.connected, ...silent, ...unknown.map((each) => [each.since, each.until])]) {
    edges.add(Math.min(Math.max(from, since), until));
    edges.add(Math.min(Math.max(to, since), until));
  }
  const moments = [...edges].sort((one, other) => one - other);
  const within = (/** @type {number[][]} */ spans, /** @type {number} */ at) => spans.some(([from = 0, to = 0]) => from <= at && at < to);
  /** @type {StripSpan[]} */
  const spans = [];
  for (let index = 1; index < moments.length; index += 1) {
    const from = /** @type {number} */ (moments[index - 1]);
    const to = /** @type {number} */ (moments[index]);
    if (to - from < LEAST_SECONDS) {
      continue;
    }
    const middle = (from + to) / 2;
    const isConnected = within(row.connected, middle);
    const why = unknown.find((each) => each.since <= middle && middle < each.until)?.why;
    /** @type {StripSpan["state"]} */
    const state = isConnected ? (within(silent, middle) ? "silent" : "present") : why === undefined ? "absent" : "unknown";
    const text = state === "unknown" ? UNKNOWN[why] : undefined;
    const last = spans.at(-1);
    if (last !== undefined && last.state === state && last.text === text) {
      last.to = to;
    } else {
      spans.push({ from, to, state, text });
    }
  }
  const marks = alarms.filter((each) => each.since !== null).map((each) => ({ at: each.since, text: `${each.alarm}: ${each.detail}` }));
  return { spans, marks };
}

/**
 * How much of the time of which something is known a device was connected, in words.
 *
 * @param {Row} row
 * @param {number} since
 * @param {number} until
 */
export function shareText(row, since, until) {
  const missing = /** @type {Row[]} */ (row.unknown).reduce((sum, each) => sum + each.until - each.since, 0);
  const known = until - since - missing;
  if (known <= 0) {
    return "not known";
  }
  const share = Math.min(row.connected_seconds / known, 1);
  // 100 % is said only of what had no gap at all.
  const percent = share === 1 ? "100" : Math.min(share * 100, 99.9).toFixed(1);
  return `connected ${percent} % of ${formatDuration(known)}`;
}
