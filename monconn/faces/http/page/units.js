/**
 * Durations, sizes, rates and times as people read them: the same words as the command line's.
 */

const BINARY_UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/**
 * A duration as a short text of two units at most: 38ms, 1.25s, 12.3s, 4m05s, 2h03m, 3d04h.
 *
 * @param {number} seconds
 * @returns {string}
 */
export function formatDuration(seconds) {
  if (!Number.isFinite(seconds)) {
    return String(seconds);
  }
  if (seconds < 0) {
    return `-${formatDuration(-seconds)}`;
  }
  if (Number(fixed(seconds, 3)) < 1) {
    return formatMilliseconds(seconds * 1000);
  }
  if (Number(fixed(seconds, 2)) < 10) {
    return `${fixed(seconds, 2)}s`;
  }
  if (Number(fixed(seconds, 1)) < 60) {
    return `${fixed(seconds, 1)}s`;
  }
  // Rounded before the units are chosen, so that 3599.7 becomes 1h00m and never 60m00s.
  const whole = Number(fixed(seconds, 0));
  if (whole < 3600) {
    return `${Math.floor(whole / 60)}m${twoDigits(whole % 60)}s`;
  }
  const minutes = Number(fixed(seconds / 60, 0));
  if (minutes < 24 * 60) {
    return `${Math.floor(minutes / 60)}h${twoDigits(minutes % 60)}m`;
  }
  const hours = Number(fixed(seconds / 3600, 0));
  return `${Math.floor(hours / 24)}d${twoDigits(hours % 24)}h`;
}

/** @param {number} milliseconds */
function formatMilliseconds(milliseconds) {
  if (Number(fixed(milliseconds, 1)) >= 10) {
    return `${fixed(milliseconds, 0)}ms`;
  }
  const rounded = Number(fixed(milliseconds, 2));
  if (rounded >= 1) {
    return `${fixed(milliseconds, 1)}ms`;
  }
  return rounded ? `${fixed(milliseconds, 2)}ms` : "0s";
}

/**
 * A number with so many digits after the point; of two that are as near, the even one, as Python
 * does, where `toFixed` takes the larger.
 *
 * @param {number} value Not negative.
 * @param {number} digits
 */
function fixed(value, digits) {
  const power = 10 ** digits;
  // Only a number with few binary digits lies exactly between two.
  const isBetween = (value * 2 ** (digits + 1)) % 1 === 0 && (value * power) % 1 === 0.5;
  return isBetween ? ((2 * Math.round((value * power) / 2)) / power).toFixed(digits) : value.toFixed(digits);
}

/** @param {number} number */
export function twoDigits(number) {
  return String(number).padStart(2, "0");
}

/**
 * A size as a short text in powers of 1024: 0 B, 812 B, 1.2 KiB, 34.0 MiB.
 *
 * @param {number} count
 * @returns {string}
 */
export function formatBytes(count) {
  if (count < 0) {
    return `-${formatBytes(-count)}`;
  }
  if (count < 1024) {
    return `${Math.floor(count)} B`;
  }
  let power = 0;
  let value = count;
  // 1023.96 KiB is 1.0 MiB.
  while (power < BINARY_UNITS.length && Math.floor(value * 10 + 0.5) >= 10240) {
    value /= 1024;
    power += 1;
  }
  if (power === 0) {
    value /= 1024;
    power = 1;
  }
  return `${(Math.floor(value * 10 + 0.5) / 10).toFixed(1)} ${BINARY_UNITS[power - 1]}`;
}

/**
 * A rate as a short text: 12.1 KiB/s; a dash below one byte a second.
 *
 * @param {number} bytesPerSecond
 * @returns {string}
 */
export function formatRate(bytesPerSecond) {
  return bytesPerSecond >= 1 ? `${formatBytes(Math.floor(bytesPerSecond))}/s` : "-";
}

/**
 * A count with its thousands apart: 12,345.
 *
 * @param {number} count
 * @returns {string}
 */
export function formatCount(count) {
  return String(count).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

/**
 * A time of day in the browser's zone, with the date unless it is today.
 *
 * @param {string | number | Date} time ISO 8601, or seconds of the wall clock.
 * @param {{dated?: boolean}} [options] With the date also if it is today.
 * @returns {string}
 */
export function formatTime(time, { dated = false } = {}) {
  const moment = asDate(time);
  if (Number.isNaN(moment.getTime())) {
    return String(time);
  }
  const clock = [moment.getHours(), moment.getMinutes(), moment.getSeconds()].map(twoDigits).join(":");
  if (!dated && moment.toDateString() === new Date().toDateString()) {
    return clock;
  }
  const day = [moment.getFullYear(), twoDigits(moment.getMonth() + 1), twoDigits(moment.getDate())];
  return `${day.join("-")} ${clock}`;
}

/**
 * @param {string | number | Date} time ISO 8601, or seconds of the wall clock.
 * @returns {Date}
 */
export function asDate(time) {
  return time instanceof Date ? time : new Date(typeof time === "number" ? time * 1000 : time);
}

/**
 * A value as people read it; a dash for none, and for the empty text.
 *
 * @param {any} value
 * @param {string} unit As a column has it.
 * @returns {string}
 */
export function formatValue(value, unit) {
  if (value === null || value === undefined || value === "") {
    return "-";
  }
  switch (unit) {
    case "bytes":
      return formatBytes(value);
    case "bytes_per_second":
      return formatRate(value);
    case "seconds":
      return formatDuration(value);
    case "time":
      return formatTime(value);
    case "flag":
      return value ? "yes" : "no";
    case "list":
      return Array.isArray(value) && value.length > 0 ? value.map(String).join(", ") : "-";
    case "object": {
      const entries = typeof value === "object" ? Object.entries(value) : [];
      return entries.length > 0 ? entries.map(([key, each]) => `${key} ${plain(each)}`).join(", ") : "-";
    }
    default:
      return plain(value);
  }
}

/** @param {any} value */
function plain(value) {
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}
