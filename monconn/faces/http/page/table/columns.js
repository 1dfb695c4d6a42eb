/** What tables know of the columns that the server describes. */

/**
 * @typedef {import("../types.js").Row} Row
 * @typedef {import("../types.js").Column} Column
 */

/** Characters that a column of this unit needs, unless it says so itself. */
const WIDTHS = /** @type {Record<string, number>} */ ({
  text: 12,
  count: 7,
  bytes: 10,
  bytes_per_second: 12,
  seconds: 7,
  time: 9,
  flag: 5,
  list: 12,
  object: 14,
});
/** Columns of more importance than this are shown only if they are chosen. */
const MOST_USUAL_IMPORTANCE = 12;

/**
 * The value of a cell: the row's own, or the fact of this name.
 *
 * @param {Column} column
 * @param {Row} row
 * @returns {any}
 */
export function cellValue(column, row) {
  return column.name in row ? row[column.name] : row.facts?.[column.name];
}

/**
 * Whether the column is in a table unless somebody chooses.
 *
 * @param {Column} column
 */
export function isUsual(column) {
  return column.usual ?? (column.importance ?? 5) <= MOST_USUAL_IMPORTANCE;
}

/**
 * Whether rows can be sorted by it.
 *
 * @param {Column} column
 */
export function isSortable(column) {
  return column.order !== "" && column.unit !== "list" && column.unit !== "object";
}

/**
 * Whether the greatest comes first in this order, as the server would sort.
 *
 * @param {Column} column
 * @param {boolean} isReversed
 */
export function isDescending(column, isReversed) {
  return Boolean(column.descending) !== isReversed;
}

/**
 * How many characters a column needs.
 *
 * @param {Column} column
 */
export function charactersOf(column) {
  return column.width || (WIDTHS[column.unit] ?? 10);
}

/**
 * Rows in an order.
 *
 * @param {Row[]} rows
 * @param {Column | undefined} column
 * @param {boolean} isReversed
 * @param {(column: Column, row: Row) => any} valueOf
 * @returns {Row[]}
 */
export function sortRows(rows, column, isReversed, valueOf) {
  if (column === undefined) {
    return rows;
  }
  const sign = isDescending(column, isReversed) ? -1 : 1;
  const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const keyed = rows.map((row) => ({ row, value: valueOf(column, row) }));
  keyed.sort((one, other) => {
    if (isNone(one.value) || isNone(other.value)) {
      return Number(isNone(one.value)) - Number(isNone(other.value)); // these come last either way
    }
    if (typeof one.value === "number" && typeof other.value === "number") {
      return sign * (one.value - other.value);
    }
    return sign * order.compare(String(one.value), String(other.value));
  });
  return keyed.map((each) => each.row);
}

/** @param {unknown} value */
function isNone(value) {
  return value === null || value === undefined || value === "" || (Array.isArray(value) && value.length === 0);
}
