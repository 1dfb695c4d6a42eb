/** Reasons of ends: how they look in charts, and how many there were, as the ticks tell. */
import { asDate } from "../units.js";

/**
 * @typedef {import("../types.js").Tick} Tick
 * @typedef {import("../charts/bars.js").Bucket} Bucket
 * @typedef {import("../charts/series.js").Series} Series
 */

/**
 * Colours say whose doing it was (client, backend, its connecting, time limits, monconn's own), and
 * patterns tell the reasons of one colour apart. The last one stands for those of newer servers.
 *
 * @type {Map<string, Series>}
 */
export const REASON_SERIES = new Map(
  /** @type {[string, number, number][]} */ ([
    ["client_closed", 1, 0],
    ["client_reset", 1, 1],
    ["client_lost", 1, 2],
    ["backend_closed", 3, 0],
    ["backend_reset", 3, 1],
    ["backend_lost", 3, 2],
    ["backend_refused", 5, 0],
    ["backend_unreachable", 5, 1],
    ["connect_timeout", 5, 2],
    ["idle_timeout", 7, 0],
    ["read_timeout", 7, 1],
    ["write_timeout", 7, 2],
    ["half_close_timeout", 7, 3],
    ["lifetime", 8, 0],
    ["operator", 4, 0],
    ["blocked", 4, 1],
    ["stopping", 4, 2],
    ["error", 2, 0],
    ["others", 8, 2],
  ]).map(([name, colour, pattern]) => [name, { label: name, colour, pattern }]),
);

/** Ten minutes in bars of ten seconds. */
export const BUCKET_SECONDS = 10;
const MOST_BUCKETS = 60;
const LEAST_BUCKETS = 12;

/** The ends of each service, in bars of some seconds: the differences of what ticks have as totals. */
export class TickReasons {
  constructor() {
    /** @type {Map<string, Record<string, number>> | null} The totals of the last tick, by service. */
    this.before = null;
    this.sequence = -1;
    /** @type {Map<number, Map<string, Record<string, number>>>} By the bucket's begin, and service. */
    this.counts = new Map();
    this.now = 0;
    /** @type {number | null} When the first tick was. */
    this.firstAt = null;
  }

  /** @param {Tick} tick */
  add(tick) {
    if (tick.sequence === this.sequence) return;
    if (tick.sequence < this.sequence) this.before = null; // the server has begun anew
    this.sequence = tick.sequence;
    this.now = asDate(/** @type {any} */ (tick.at)).getTime() / 1000;
    this.firstAt ??= this.now;
    const begin = beginOf(this.now);
    /** @type {Map<string, Record<string, number>>} */
    const totals = new Map();
    for (const service of tick.services) {
      const closedBy = service.closed_by;
      if (typeof closedBy !== "object" || closedBy === null) continue;
      totals.set(service.sid, closedBy);
      const before = this.before?.get(service.sid);
      if (this.before === null) continue;
      for (const [reason, total] of Object.entries(closedBy)) {
        // A service that is new has ended its first ones since then; lower: they were reset.
        const ended = total - (before?.[reason] ?? 0);
        if (ended > 0) this.count(begin, service.sid, reason, ended);
      }
    }
    this.before = totals;
    for (const each of this.counts.keys()) {
      if (each <= begin - MOST_BUCKETS * BUCKET_SECONDS) this.counts.delete(each);
    }
    if (!this.counts.has(begin)) this.counts.set(begin, new Map());
  }

  /**
   * @param {number} begin
   * @param {string} service
   * @param {string} reason
   * @param {number} ended
   */
  count(begin, service, reason, ended) {
    const services = this.counts.get(begin) ?? new Map();
    this.counts.set(begin, services);
    const counts = services.get(service) ?? {};
    services.set(service, counts);
    counts[reason] = (counts[reason] ?? 0) + ended;
  }

  /**
   * @param {string | null} service Null for all.
   * @param {Bucket[]} [earlier] What has ended before the first tick.
   * @returns {{buckets: Bucket[], since: number, until: number}}
   */
  buckets(service, earlier = []) {
    const last = beginOf(this.now);
    const oldest = last - (MOST_BUCKETS - 1) * BUCKET_SECONDS;
    /** @type {Map<number, Record<string, number>>} */
    const sums = new Map();
    const add = (/** @type {number} */ begin, /** @type {Record<string, number>} */ counts) => {
      if (begin < oldest) return;
      const sum = sums.get(begin) ?? {};
      sums.set(begin, sum);
      for (const [reason, count] of Object.entries(counts)) sum[reason] = (sum[reason] ?? 0) + count;
    };
    for (const each of earlier) add(beginOf(each.since), each.counts);
    for (const [begin, services] of this.counts) {
      add(begin, {});
      for (const [name, counts] of services) {
        if (service === null || name === service) add(begin, counts);
      }
    }
    const buckets = [...sums.entries()]
      .sort(([one], [other]) => one - other)
      .map(([begin, counts]) => ({ since: begin, until: begin + BUCKET_SECONDS, counts }));
    const until = last + BUCKET_SECONDS;
    return { buckets, since: Math.min(buckets[0]?.since ?? last, until - LEAST_BUCKETS * BUCKET_SECONDS), until };
  }
}

/** @param {number} at */
const beginOf = (at) => Math.floor(at / BUCKET_SECONDS) * BUCKET_SECONDS;
