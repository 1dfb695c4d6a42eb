/**
 * A table of some hundred rows, page by page, whose cells may hold links, buttons and pictures.
 *
 * Columns leave by their importance where the place gets narrow. Arrows up and down go from row to
 * row, by what has the focus in them.
 */
import { append, h, keyed, replace, setAttribute, setText } from "../dom.js";
import { formatCount, formatValue } from "../units.js";
import { cellValue, charactersOf, isDescending, isUsual, sortRows } from "./columns.js";

const CHARACTER_PIXELS = 7.4;
/** Of a cell's padding, in characters. */
const PADDING = 2.4;
const NUMBERS = new Set(["count", "bytes", "bytes_per_second", "seconds"]);
const PAGE_ROWS = 100;
const FOCUSABLE = "a[href], button:not(:disabled)";

/**
 * @typedef {import("../types.js").Row} Row
 * @typedef {import("../types.js").Column} Column
 *
 * @typedef {object} PlainTableOptions
 * @property {string} label What the rows are, for screen readers.
 * @property {Column[]} columns Those that there are: of these, the usual ones are shown.
 * @property {(row: Row) => string} key
 * @property {string} [sort] The name of a column, with `-` before it for the other way round.
 * @property {(sort: string) => void} onSort
 * @property {boolean} [isSorted] Whether rows come in order, so that they are not sorted here.
 * @property {(column: Column, row: Row) => Node | string | undefined} [cell] What is in a cell;
 *   undefined for the usual text.
 * @property {(row: Row) => string} [rowClass]
 * @property {(row: Row) => HTMLElement[]} [actions] Buttons at the end of a row; made once for it.
 * @property {(rows: Row[]) => void} [onView] Is told which rows are in view, when that changes.
 * @property {string} [empty] What is said if there are no rows.
 */

export class PlainTable {
  /** @param {PlainTableOptions} options */
  constructor(options) {
    this.options = options;
    this.sort = options.sort ?? "";
    /** @type {Row[]} */
    this.rows = [];
    this.page = 0;
    this.width = 0;
    /** @type {Column[]} */
    this.shown = [];
    /** @type {Map<Element, Row>} */
    this.rowOf = new Map();
    /** @type {Set<Element>} */
    this.inView = new Set();
    this.viewTimer = 0;
    this.isLoaded = false;
    this.head = h("tr", null);
    this.body = h("tbody", { onkeydown: (/** @type {KeyboardEvent} */ event) => this.move(event) });
    this.empty = h("p", { class: "hint", hidden: true }, options.empty ?? "Nothing is here.");
    this.pager = h("div", { class: "pager", hidden: true });
    this.element = h(
      "div",
      { class: "plain-grid" },
      h("table", { class: "plain", "aria-label": options.label }, h("thead", null, this.head), this.body),
      this.empty,
      this.pager,
    );
    this.sizes = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry?.contentRect.width ?? 0);
      if (width !== this.width) {
        this.width = width;
        this.draw();
      }
    });
    this.sizes.observe(this.element);
    this.views = options.onView && new IntersectionObserver((entries) => this.seen(entries), { rootMargin: "100px" });
  }

  /** @param {Row[]} rows */
  setRows(rows) {
    this.rows = rows;
    this.isLoaded = true;
    this.draw();
  }

  /** @param {string} sort */
  setSort(sort) {
    if (sort !== this.sort) {
      this.sort = sort;
      this.draw();
    }
  }

  /** Draw again, as what `cell` says has changed. */
  draw() {
    const { options } = this;
    if (this.width === 0) {
      return; // nobody sees it yet
    }
    this.shown = this.columnsThatFit();
    keyed(
      this.head,
      [...this.shown.map((column) => column.name), ...(options.actions ? [" "] : [])],
      (name) => name,
      (name) => this.header(name),
      (cell, name) => this.drawHeader(cell, name),
    );
    const sorted = this.sort.replace(/^-/, "");
    const column = options.columns.find((each) => each.name === sorted);
    const ordered = options.isSorted ? this.rows : sortRows(this.rows, column, this.sort.startsWith("-"), cellValue);
    const last = Math.max(0, Math.ceil(ordered.length / PAGE_ROWS) - 1);
    this.page = Math.min(this.page, last);
    const rows = ordered.slice(this.page * PAGE_ROWS, (this.page + 1) * PAGE_ROWS);
    this.rowOf.clear();
    keyed(
      this.body,
      rows,
      options.key,
      (row) => this.makeRow(row),
      (element, row) => this.drawRow(element, row),
    );
    for (const element of this.inView) {
      if (!element.isConnected) {
        this.inView.delete(element);
        this.views?.unobserve(element);
      }
    }
    this.empty.hidden = rows.length > 0 || !this.isLoaded;
    this.drawPager(ordered.length, last);
    this.tellView();
  }

  /** The usual columns, without the least important ones that there is no room for. */
  columnsThatFit() {
    const columns = this.options.columns.filter(isUsual);
    const room = this.width / CHARACTER_PIXELS - (this.options.actions ? 14 : 0);
    const needed = (/** @type {Column[]} */ kept) => kept.reduce((sum, each) => sum + widthOf(each) + PADDING, 0);
    let kept = columns;
    while (needed(kept) > room) {
      const least = Math.max(...kept.map((each) => each.importance ?? 5));
      const fewer = kept.filter((each) => (each.importance ?? 5) < least);
      if (fewer.length === 0) {
        break;
      }
      kept = fewer;
    }
    return kept;
  }

  /** @param {string} name */
  header(name) {
    const column = this.shown.find((each) => each.name === name);
    if (column === undefined) {
      return h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, "Actions"));
    }
    const isNumber = NUMBERS.has(column.unit);
    // What is sorted here can be sorted by any column.
    if (this.options.isSorted ? column.order === "" : column.unit === "object") {
      return h("th", { scope: "col", class: isNumber ? "number" : "", title: column.help }, column.title);
    }
    return h(
      "th",
      { scope: "col", class: isNumber ? "number" : "" },
      h("button", { type: "button", class: "sort", title: column.help, onclick: () => this.sortBy(name) }, column.title),
    );
  }

  /**
   * @param {Element} cell
   * @param {string} name
   */
  drawHeader(cell, name) {
    const column = this.shown.find((each) => each.name === name);
    const isIt = column !== undefined && this.sort.replace(/^-/, "") === name;
    setAttribute(cell, "aria-sort", isIt ? (isDescending(column, this.sort.startsWith("-")) ? "descending" : "ascending") : null);
  }

  /** @param {string} name */
  sortBy(name) {
    this.sort = this.sort === name ? `-${name}` : name;
    this.page = 0;
    this.options.onSort(this.sort);
    this.draw();
  }

  /** @param {Row} row */
  makeRow(row) {
    const element = h("tr", null);
    if (this.options.actions) {
      /** @type {any} */ (element).monconnActions = this.options.actions(row);
    }
    this.views?.observe(element);
    return element;
  }

  /**
   * @param {HTMLTableRowElement} element
   * @param {Row} row
   */
  drawRow(element, row) {
    const { options } = this;
    this.rowOf.set(element, row);
    element.className = options.rowClass?.(row) ?? "";
    keyed(
      element,
      [...this.shown.map((column) => column.name), ...(options.actions ? [" "] : [])],
      (name) => name,
      (name) => this.makeCell(element, name),
      (cell, name) => this.drawCell(cell, name, row),
    );
  }

  /**
   * @param {HTMLElement} element
   * @param {string} name
   */
  makeCell(element, name) {
    const column = this.shown.find((each) => each.name === name);
    if (column === undefined) {
      return h("td", { class: "row-actions" }, .../** @type {any} */ (element).monconnActions);
    }
    return h("td", { class: `${NUMBERS.has(column.unit) ? "number" : ""} cell-${name}` });
  }

  /**
   * @param {HTMLElement} cell
   * @param {string} name
   * @param {Row} row
   */
  drawCell(cell, name, row) {
    const column = this.shown.find((each) => each.name === name);
    if (column === undefined) {
      return;
    }
    const made = this.options.cell?.(column, row) ?? formatValue(cellValue(column, row), column.unit);
    if (typeof made === "string") {
      setText(cell, made);
      setAttribute(cell, "title", made.length > 24 ? made : null);
    } else if (cell.childNodes.length !== 1 || !(cell.firstChild === made || cell.firstChild?.isEqualNode(made))) {
      replace(cell, made); // else it would lose its focus
    }
  }

  /**
   * @param {number} total
   * @param {number} last
   */
  drawPager(total, last) {
    this.pager.hidden = last === 0;
    if (last === 0) {
      return;
    }
    const go = (/** @type {number} */ by) => () => {
      this.page += by;
      this.draw();
      this.element.scrollIntoView({ block: "start" });
    };
    const from = this.page * PAGE_ROWS + 1;
    const to = Math.min(total, from + PAGE_ROWS - 1);
    if (this.pager.childElementCount === 0) {
      append(this.pager, [
        h("button", { type: "button", onclick: () => go(-1)() }, "Previous"),
        h("span", { "aria-live": "polite" }),
        h("button", { type: "button", onclick: () => go(1)() }, "Next"),
      ]);
    }
    const [before, text, after] = /** @type {[HTMLButtonElement, Element, HTMLButtonElement]} */ (/** @type {unknown} */ ([...this.pager.children]));
    before.disabled = this.page === 0;
    after.disabled = this.page === last;
    setText(text, `${formatCount(from)} to ${formatCount(to)} of ${formatCount(total)}`);
  }

  /** @param {KeyboardEvent} event */
  move(event) {
    const by = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    const target = /** @type {HTMLElement} */ (event.target);
    const row = target.closest("tr");
    if (by === 0 || row === null || event.altKey || event.ctrlKey || event.metaKey) {
      return;
    }
    const place = [...row.querySelectorAll(FOCUSABLE)].indexOf(target);
    const next = by > 0 ? row.nextElementSibling : row.previousElementSibling;
    const found = /** @type {HTMLElement[]} */ ([...(next?.querySelectorAll(FOCUSABLE) ?? [])]);
    const wanted = found[Math.min(Math.max(place, 0), found.length - 1)];
    if (wanted !== undefined) {
      event.preventDefault();
      wanted.focus();
    }
  }

  /** Give the focus to the first row: from there, arrows go on. */
  focus() {
    /** @type {HTMLElement | null} */ (this.body.querySelector(FOCUSABLE))?.focus();
  }

  /** @param {IntersectionObserverEntry[]} entries */
  seen(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        this.inView.add(target);
      } else {
        this.inView.delete(target);
      }
    }
    this.tellView();
  }

  tellView() {
    if (this.options.onView === undefined) {
      return;
    }
    clearTimeout(this.viewTimer);
    this.viewTimer = setTimeout(() => {
      const rows = [...this.inView].map((element) => this.rowOf.get(element)).filter((row) => row !== undefined);
      this.options.onView?.(rows);
    }, 100);
  }

  /** Stop watching. */
  destroy() {
    clearTimeout(this.viewTimer);
    this.sizes.disconnect();
    this.views?.disconnect();
    this.element.remove();
  }
}

/** @param {Column} column */
function widthOf(column) {
  return Math.max(charactersOf(column), column.title.length);
}
