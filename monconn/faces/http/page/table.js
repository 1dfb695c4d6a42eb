/**
 * A table of which only the rows in view are drawn, and asked for: it holds a hundred thousand.
 *
 * It is a grid for assistive technology: the grid itself has the focus, and names the active row.
 * Keys: arrows, Page Up and Down, Home, End; Enter opens a row; Space selects it, Shift with an
 * arrow several; Escape ends the selection.
 */
import { h, keyed, printable, setAttribute, setText } from "./dom.js";
import { formatValue } from "./units.js";

/** Characters that a column of this unit needs, unless it says so itself. */
const WIDTHS = /** @type {Record<string, number>} */ ({
  text: 12,
  count: 7,
  bytes: 10,
  bytes_per_second: 12,
  seconds: 8,
  time: 9,
  flag: 5,
  list: 12,
  object: 14,
});
/** Columns of more importance than this are shown only if they are chosen. */
const MOST_USUAL_IMPORTANCE = 12;

/**
 * @typedef {import("./types.js").Row} Row
 * @typedef {import("./types.js").Column} Column
 *
 * @typedef {object} Page Rows from an offset on.
 * @property {Row[]} rows
 * @property {number} [total] How many there are without offset and limit.
 *
 * @typedef {object} TableOptions
 * @property {string} label What the rows are, for screen readers: "Connections".
 * @property {Column[]} columns Those that there are.
 * @property {(row: Row) => string | number} key
 * @property {string[]} [chosen] The names of the columns to show; the usual ones if left out.
 * @property {(offset: number, limit: number, sort: string, signal: AbortSignal) => Promise<Page>} [fetch]
 *   Asks for rows. Without it, they are given with `setRows`, and sorted here.
 * @property {string} [sort] The name of a column, with `-` before it for the other way round.
 * @property {(sort: string) => void} [onSort]
 * @property {(row: Row) => string | undefined} [href] Where Enter leads; the first column is a link then.
 * @property {(row: Row) => void} [onOpen] What Enter does, if there is no `href`.
 * @property {boolean} [selectable] Whether rows can be selected.
 * @property {(keys: Map<string, Row>) => void} [onSelect]
 * @property {(column: Column, row: Row) => any} [value] The value of a cell; undefined for the row's own.
 * @property {(column: Column, row: Row) => string} [cellClass] Classes of a cell, such as `bad`.
 * @property {(column: Column, row: Row) => string | undefined} [cellText] The text of a cell; undefined for the usual.
 * @property {string} [empty] What is said if there are no rows.
 */

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

export class Table {
  /** @param {TableOptions} options */
  constructor(options) {
    this.options = options;
    this.sort = options.sort ?? "";
    /** @type {Row[]} */
    this.rows = [];
    /** @type {Map<string, Row>} */
    this.selected = new Map();
    this.head = h("tr", null);
    this.body = h("tbody", null);
    /** What goes into the page. */
    this.element = h(
      "div",
      { class: "grid" },
      h("table", { "aria-label": options.label }, h("thead", null, this.head), this.body),
    );
    this.drawHead();
  }

  /** Ask for what is in view again; does nothing for rows that were given. */
  async refresh() {
    if (this.options.fetch !== undefined) {
      const page = await this.options.fetch(0, 100, this.sort, new AbortController().signal);
      this.setRows(page.rows);
    }
  }

  /**
   * The rows, of a table that asks for none itself.
   *
   * @param {Row[]} rows
   */
  setRows(rows) {
    this.rows = rows;
    keyed(
      this.body,
      rows,
      this.options.key,
      () => h("tr", null),
      (element, row) => {
        keyed(
          element,
          this.columns(),
          (column) => column.name,
          () => h("td", null),
          (cell, column) => setText(cell, this.text(column, row)),
        );
      },
    );
  }

  columns() {
    const { chosen, columns } = this.options;
    return columns.filter((column) => (chosen === undefined ? isUsual(column) : chosen.includes(column.name)));
  }

  drawHead() {
    keyed(
      this.head,
      this.columns(),
      (column) => column.name,
      (column) => h("th", { scope: "col", title: column.help }, column.title),
    );
  }

  /**
   * @param {Column} column
   * @param {Row} row
   * @returns {string}
   */
  text(column, row) {
    const value = this.options.value?.(column, row) ?? cellValue(column, row);
    return printable(this.options.cellText?.(column, row) ?? formatValue(value, column.unit));
  }

  /** Stop asking, and forget everything. */
  destroy() {
    setAttribute(this.element, "aria-busy", false);
    this.element.remove();
  }
}

export { WIDTHS };
