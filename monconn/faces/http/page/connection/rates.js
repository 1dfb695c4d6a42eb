/**
 * Rates of one connection, calculated from its counts: what moved between two answers, divided by
 * the time between them on the server's clock.
 */

/** @typedef {import("../types.js").Row} Row */
/** @typedef {import("../charts/lines.js").Sample} Sample */

/** Ten minutes at one answer a second. */
const MOST_SAMPLES = 600;
/** A longer time between two answers is a gap: nobody was looking. */
const GAP_SECONDS = 10;
/** The shortest time of which a rate is told. */
const LEAST_SECONDS = 0.5;

export class Rates {
  constructor() {
    /** @type {Sample[]} */
    this.samples = [];
    /** @type {{age: number, up: number, down: number} | null} */
    this.before = null;
  }

  /** @param {Row} row An answer. */
  add(row) {
    const age = Number(row.age_seconds);
    const now = { age, up: Number(row.up), down: Number(row.down) };
    const before = this.before;
    const at = new Date(row.opened_at).getTime() / 1000 + age;
    if (before === null) {
      this.before = now;
      if (!row.closed_at) this.samples.push({ at, values: [row.up_rate ?? 0, row.down_rate ?? 0] });
      return;
    }
    const seconds = age - before.age;
    if (seconds < LEAST_SECONDS) return; // the same answer once more, or nearly: a burst would be a peak
    this.before = now;
    if (seconds > GAP_SECONDS) this.samples.push({ at: at - seconds / 2, values: [null, null] });
    const rate = (/** @type {number} */ moved) => Math.max(moved, 0) / seconds;
    this.samples.push({ at, values: [rate(now.up - before.up), rate(now.down - before.down)] });
    if (this.samples.length > MOST_SAMPLES) this.samples.splice(0, this.samples.length - MOST_SAMPLES);
  }
}
