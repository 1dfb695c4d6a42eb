/**
 * A table of which only the rows in view are drawn, and asked for: it holds a hundred thousand.
 *
 * It is a grid for assistive technology: the grid itself has the focus, and names the active row.
 * Keys: arrows, Page Up and Down, Home, End; Enter opens a row; Space selects it, Shift with an
 * arrow several; Escape ends the selection.
 *
 * What one reads does not jump. Rows that come or go above what is in view scroll along, and while
 * somebody points at rows, or moves among them by keys, the order is held: values change in their
 * places, and a row that has ended stays until then, and says so.
 */
import { h, printable, setAttribute, setText } from "../dom.js";
import { formatValue } from "../units.js";
import { cellValue, charactersOf, isDescending, isSortable, isUsual, sortRows } from "./columns.js";

/** Rows that are drawn above and below what is in view. */
const OVERSCAN = 6;
/** Rows that are asked for above and below what is in view. */
const MARGIN = 12;
/** The most rows that are asked for at once. */
const MOST_ROWS = 200;
/** The most rows that are remembered; what is out of view is only shown until it is asked for. */
const MOST_REMEMBERED = 4000;
const HOLD_MILLISECONDS = 4000;
const SCROLL_MILLISECONDS = 80;
/** A browser's elements cannot be higher than some 30 million pixels. */
const MOST_PIXELS = 15_000_000;
/** Left and right of the text of a cell, and the mark of the order in a head. */
const CELL_PADDING = 16;
const SELECT_PIXELS = 34;

/**
 * @typedef {import("../types.js").Row} Row
 * @typedef {import("../types.js").Column} Column
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
 * @property {(rows: Row[], signal: AbortSignal) => Promise<Row[]>} [fetchAgain]
 *   Asks for these rows as they are now; of those that have ended there is none. Without it, no
 *   order is held.
 * @property {(row: Row, sort: string, signal: AbortSignal) => Promise<number | undefined>} [rank]
 *   Asks how many rows come before this one, if the server can say.
 * @property {string} [sort] The name of a column, with `-` before it for the other way round.
 * @property {string} [usualSort] The order if there is none: which head has the mark then.
 * @property {(sort: string) => void} [onSort] Somebody wants another order.
 * @property {(page: Page) => void} [onPage] Rows have come.
 * @property {(row: Row) => string | undefined} [href] Where Enter leads; the first column is a link then.
 * @property {(row: Row) => void} [onOpen] What Enter does, if there is no `href`.
 * @property {boolean} [selectable] Whether rows can be selected.
 * @property {(keys: Map<string, Row>) => void} [onSelect]
 * @property {(isHeld: boolean) => void} [onHold] The order is held, or is no longer.
 * @property {(column: Column, row: Row) => any} [value] The value of a cell; undefined for the row's own.
 * @property {(column: Column, row: Row) => string} [cellClass] Classes of a cell, such as `bad`.
 * @property {(column: Column, row: Row) => string | undefined} [cellText] The text of a cell; undefined for the usual.
 * @property {(row: Row) => string} [rowClass]
 * @property {string} [empty] What is said if there are no rows.
 *
 * @typedef {object} Line One row that is drawn.
 * @property {HTMLElement} element
 * @property {HTMLElement[]} cells
 * @property {string[]} texts What is in the cells: comparing it is cheaper than asking the document.
 * @property {string[]} classes Of the cells, beside the usual ones.
 * @property {string} className
 * @property {Row | undefined} row What is drawn.
 * @property {boolean} isDrawn
 * @property {HTMLInputElement | null} box
 * @property {HTMLAnchorElement | null} link
 * @property {number} index
 */

let made = 0;

export class Table {
  /** @param {TableOptions} options */
  constructor(options) {
    made += 1;
    this.id = `grid-${made}`;
    this.options = options;
    this.sort = options.sort ?? "";
    this.chosen = options.chosen;
    this.total = 0;
    /** Whether any rows have come yet. */
    this.isKnown = false;
    /** @type {Row[]} All rows, of a table that asks for none. */
    this.given = [];
    /** @type {Map<number, Row>} By their places in the order. */
    this.rows = new Map();
    /** @type {Set<string>} The keys of rows that have ended while the order was held. */
    this.ended = new Set();
    /** @type {Map<string, Row>} */
    this.selected = new Map();
    /** @type {Set<Column>} Of those that only some rows have a value of, those that have been seen. */
    this.filled = new Set();
    /** @type {Map<Column, number>} How many characters the longest text has had, of texts. */
    this.longest = new Map();
    /** @type {string | null} The key of the row that has the cursor. */
    this.active = null;
    this.activeIndex = -1;
    /** Where Shift began. */
    this.pivotIndex = -1;
    /** @type {Line[]} In the order of the page. */
    this.lines = [];
    /** @type {Column[]} Those that have room. */
    this.shown = [];
    this.heldUntil = 0;
    this.isHeld = false;
    this.pointedIndex = -1;
    this.scrollDirection = 0;
    /** @type {AbortController | null} */
    this.loading = null;
    this.isWanted = false;
    this.frame = 0;
    this.scrollTimer = 0;
    this.holdTimer = 0;

    this.headRow = h("div", { role: "row", class: "grid-row grid-head", "aria-rowindex": "1" });
    this.block = h("div", { class: "grid-block", role: "rowgroup" });
    this.canvas = h("div", { class: "grid-canvas", role: "presentation" }, this.block);
    this.note = h("p", { class: "grid-note muted" });
    this.note.hidden = true;
    /** What goes into the page. */
    this.element = h(
      "div",
      {
        class: "grid",
        role: "grid",
        tabindex: "0",
        "aria-label": options.label,
        "aria-multiselectable": options.selectable ? "true" : null,
        onkeydown: (/** @type {KeyboardEvent} */ event) => this.onKey(event),
        onscroll: () => this.onScroll(),
        onfocus: () => this.onFocus(),
      },
      h("div", { role: "rowgroup", class: "grid-heads" }, this.headRow),
      this.canvas,
      this.note,
    );
    this.block.addEventListener("click", (event) => this.onClick(event));
    this.block.addEventListener("dblclick", (event) => this.onDoubleClick(event));
    this.block.addEventListener("pointermove", (event) => this.onPointer(event));
    this.block.addEventListener("pointerleave", () => {
      this.pointedIndex = -1;
      this.release();
    });
    this.resizing = new ResizeObserver(() => this.layOut());
    this.resizing.observe(this.element);
    /** Of all rows, in pixels. */
    this.height = -1;
    this.rowPixels = 28;
    this.charPixels = 7.5;
    /** How far it is scrolled, and how high the place for rows is, in pixels. */
    this.top = 0;
    this.room = 0;
  }

  // -- for those who use it

  /** Ask for what is in view again; does nothing for rows that were given. */
  refresh() {
    if (this.options.fetch === undefined || document.hidden) {
      return;
    }
    if (this.loading !== null) {
      this.isWanted = true;
      return;
    }
    void this.load();
  }

  /** Begin anew: other rows are meant. */
  reset() {
    this.loading?.abort();
    this.loading = null;
    this.rows.clear();
    this.ended.clear();
    this.isKnown = false;
    this.heldUntil = 0;
    this.setHeld(false);
    this.active = null;
    this.activeIndex = -1;
    this.scrollTo(0);
    this.total = this.options.fetch === undefined ? this.given.length : 0;
    this.draw();
    this.refresh();
  }

  /** Where somebody is in it, for `restore`. */
  place() {
    return { total: this.total, top: this.top, active: this.active, activeIndex: this.activeIndex };
  }

  /**
   * Begin where somebody was before.
   *
   * @param {ReturnType<Table["place"]>} place
   */
  restore(place) {
    this.total = place.total; // until the server says how many there are now
    this.active = place.active;
    this.activeIndex = place.activeIndex;
    this.layOut();
    this.setHeight();
    this.scrollTo(place.top);
    this.draw();
    this.refresh();
    if (document.activeElement === document.body || document.activeElement?.id === "main") {
      this.focus(); // nobody else has it
    }
  }

  /**
   * Another order.
   *
   * @param {string} sort
   */
  setSort(sort) {
    if (sort === this.sort) {
      return;
    }
    this.sort = sort;
    this.layOut();
    this.drawHead();
    if (this.options.fetch === undefined) {
      this.setRows(this.given);
      this.scrollTo(0);
    } else {
      this.reset();
    }
  }

  /**
   * Other columns.
   *
   * @param {string[] | undefined} chosen Undefined for the usual ones.
   */
  setChosen(chosen) {
    this.chosen = chosen;
    this.layOut(true);
  }

  /**
   * The rows, of a table that asks for none itself.
   *
   * @param {Row[]} rows
   */
  setRows(rows) {
    this.given = rows;
    const sorted = sortRows(rows, this.sortColumn(), this.sort.startsWith("-"), (column, row) => this.value(column, row));
    this.take({ rows: sorted, total: sorted.length }, 0);
  }

  /** @returns {Row | undefined} The row that has the cursor. */
  activeRow() {
    return this.rows.get(this.activeIndex);
  }

  clearSelection() {
    if (this.selected.size > 0) {
      this.selected.clear();
      this.selectionChanged();
    }
  }

  focus() {
    this.element.focus();
  }

  /** Stop asking, and forget everything. */
  destroy() {
    this.loading?.abort();
    this.resizing.disconnect();
    cancelAnimationFrame(this.frame);
    clearTimeout(this.scrollTimer);
    clearTimeout(this.holdTimer);
    this.isDestroyed = true;
  }

  // -- asking for rows

  /** The first row in view, and how many are. */
  inView() {
    // From what is remembered: asking the document would have it laid out in the midst of changes.
    const first = Math.floor(this.top / this.rowPixels);
    return { first: Math.max(0, first), count: Math.ceil(Math.max(0, this.room) / this.rowPixels) + 1 };
  }

  isInViewKnown() {
    const { first, count } = this.inView();
    const end = Math.min(this.total, first + count);
    for (let index = Math.min(first, Math.max(0, end - 1)); index < end; index += 1) {
      if (!this.rows.has(index)) {
        return false;
      }
    }
    return true;
  }

  async load() {
    const loading = new AbortController();
    this.loading = loading;
    this.isWanted = false;
    try {
      if (this.isHolding() && this.isKnown && this.isInViewKnown()) {
        await this.loadHeld(loading.signal);
      } else {
        await this.loadInView(loading.signal);
      }
    } catch (error) {
      if (!loading.signal.aborted) {
        if (this.onError === undefined) {
          throw error;
        }
        this.onError(error);
      }
    } finally {
      if (this.loading === loading) {
        this.loading = null;
        if (!this.isDestroyed && (this.isWanted || (this.isKnown && this.total > 0 && !this.failed && !this.isInViewKnown()))) {
          this.scheduleLoad();
        }
      }
    }
  }

  /** Is called with what went wrong when rows were asked for. @type {((error: unknown) => void) | undefined} */
  onError;

  scheduleLoad() {
    if (this.scrollTimer === 0) {
      this.scrollTimer = setTimeout(() => {
        this.scrollTimer = 0;
        this.refresh();
      }, SCROLL_MILLISECONDS);
    }
  }

  /** @param {AbortSignal} signal */
  async loadInView(signal) {
    const { fetch } = this.options;
    if (fetch === undefined) {
      return;
    }
    const { first, count } = this.inView();
    // While somebody scrolls, further in that direction: what comes next is there, then.
    const before = MARGIN + (this.scrollDirection < 0 ? count : 0);
    const after = MARGIN + (this.scrollDirection > 0 ? count : 0);
    const offset = Math.max(0, first - before);
    const limit = Math.min(MOST_ROWS, first + count + after - offset);
    this.failed = true;
    const page = await fetch(offset, limit, this.sort, signal);
    this.failed = false;
    if (signal.aborted) {
      return;
    }
    this.scrollDirection = 0;
    const anchor = this.anchor();
    const isLost =
      anchor !== undefined && !page.rows.some((row) => anchor.some((each) => each.key === String(this.options.key(row))));
    const row = anchor?.[0]?.row;
    if (isLost && row !== undefined && this.options.rank !== undefined) {
      // So many have come or gone above that nothing in view is among what has come.
      const rank = await this.options.rank(row, this.sort, signal);
      if (signal.aborted) {
        return;
      }
      if (rank !== undefined && anchor?.[0] !== undefined && rank !== anchor[0].index) {
        const by = rank - anchor[0].index;
        // What is known moves along, until it is asked for again at its new places.
        this.rows = new Map([...this.rows].map(([index, each]) => [index + by, each]));
        this.shift(by);
        this.total = page.total ?? this.total;
        this.draw();
        this.isWanted = true;
        return;
      }
    }
    this.take(page, offset);
  }

  /**
   * The values of the rows in view, in the order that is held.
   *
   * @param {AbortSignal} signal
   */
  async loadHeld(signal) {
    const { fetchAgain, key } = this.options;
    const held = this.lines
      .map((line) => this.rows.get(line.index))
      .filter((row) => row !== undefined)
      .filter((row) => !this.ended.has(String(key(row))));
    if (fetchAgain === undefined || held.length === 0) {
      return;
    }
    const rows = await fetchAgain(held, signal);
    if (signal.aborted || !this.isHeld) {
      return;
    }
    const found = new Map(rows.map((row) => [String(key(row)), row]));
    for (const [index, row] of this.rows) {
      const now = found.get(String(key(row)));
      if (now !== undefined) {
        this.rows.set(index, now);
      }
    }
    for (const row of held) {
      if (!found.has(String(key(row)))) {
        this.ended.add(String(key(row)));
      }
    }
    this.draw();
  }

  /**
   * Rows have come.
   *
   * @param {Page} page
   * @param {number} offset
   */
  take(page, offset) {
    const { key } = this.options;
    const anchor = this.anchor();
    const places = new Map(page.rows.map((row, index) => [String(key(row)), offset + index]));
    let by = 0;
    for (const { key: each, index } of anchor ?? []) {
      const now = places.get(each);
      if (now !== undefined) {
        by = now - index;
        break;
      }
    }
    this.ended.clear();
    this.setHeld(this.isHolding());
    this.total = page.total ?? offset + page.rows.length;
    if (by !== 0 || this.options.fetch === undefined || this.rows.size > MOST_REMEMBERED) {
      this.rows.clear();
    }
    page.rows.forEach((row, index) => this.rows.set(offset + index, row));
    for (let index = offset + page.rows.length; index < offset + page.rows.length + MARGIN; index += 1) {
      if (index >= this.total) {
        this.rows.delete(index);
      }
    }
    if (by !== 0) {
      this.shift(by);
    }
    this.isKnown = true;
    if (this.active !== null) {
      const place = places.get(this.active);
      if (place !== undefined) {
        this.activeIndex = place;
      } else if (this.rows.get(this.activeIndex) !== undefined) {
        this.moveTo(this.activeIndex, false); // it has ended: the cursor stays where it is
      }
    } else {
      // The cursor has moved to where nothing was known yet.
      const row = this.rows.get(this.activeIndex);
      this.active = row === undefined ? null : String(key(row));
    }
    for (const row of page.rows) {
      if (this.selected.has(String(key(row)))) {
        this.selected.set(String(key(row)), row);
      }
    }
    this.options.onPage?.(page);
    if (this.noteFilled(page.rows)) {
      this.layOut();
    }
    this.draw();
  }

  /**
   * Note which columns that are for some rows have a value: they stay from then on; and how long
   * the texts have been.
   *
   * @param {Row[]} rows
   */
  noteFilled(rows) {
    const before = this.filled.size;
    let isLonger = false;
    for (const column of this.shown) {
      if (column.unit === "text") {
        const known = this.longest.get(column) ?? 0;
        const now = rows.reduce((most, row) => Math.max(most, formatValue(this.value(column, row), column.unit).length), known);
        isLonger = isLonger || now > known;
        this.longest.set(column, now);
      }
    }
    for (const column of this.options.columns) {
      if (column.for_some && !this.filled.has(column)) {
        const isFilled = rows.some((row) => formatValue(this.value(column, row), column.unit) !== "-");
        if (isFilled) {
          this.filled.add(column);
        }
      }
    }
    return isLonger || this.filled.size > before;
  }

  /**
   * The rows by which what is in view is found again, the best first; none at the very top, where
   * what is new is wanted.
   */
  anchor() {
    if (!this.isKnown || (this.top < 1 && !this.isHolding() && this.pointedIndex < 0)) {
      return undefined;
    }
    if (!this.isSteady() && this.pointedIndex < 0) {
      return undefined; // the order itself changes
    }
    const { first, count } = this.inView();
    const wanted = [];
    if (this.pointedIndex >= 0) {
      wanted.push(this.pointedIndex);
    }
    if (this.activeIndex >= first && this.activeIndex < first + count) {
      wanted.push(this.activeIndex);
    }
    if (this.isSteady()) {
      for (let index = first; index < first + count; index += 1) {
        wanted.push(index);
      }
    }
    const anchor = [];
    for (const index of wanted) {
      const row = this.rows.get(index);
      if (row !== undefined) {
        anchor.push({ key: String(this.options.key(row)), index, row });
      }
    }
    return anchor;
  }

  /** Whether rows keep their places among each other. */
  isSteady() {
    const column = this.sortColumn();
    return column === undefined || column.unit === "text" || column.unit === "time" || column.name === "id" || column.name === "age_seconds";
  }

  /**
   * What was at a place is so many places further now: scroll along.
   *
   * @param {number} by
   */
  shift(by) {
    this.setHeight();
    this.scrollTo(this.top + by * this.rowPixels);
    if (this.pointedIndex >= 0) {
      this.pointedIndex += by;
    }
    if (this.pivotIndex >= 0) {
      this.pivotIndex += by;
    }
    if (this.activeIndex >= 0) {
      this.activeIndex = Math.max(0, this.activeIndex + by);
    }
  }

  /** @param {number} top */
  scrollTo(top) {
    this.element.scrollTop = top;
    this.top = this.element.scrollTop;
  }

  // -- holding the order

  isHolding() {
    return this.options.fetchAgain !== undefined && Date.now() < this.heldUntil;
  }

  hold() {
    if (this.options.fetchAgain === undefined || !this.isKnown) {
      return;
    }
    this.heldUntil = Date.now() + HOLD_MILLISECONDS;
    this.setHeld(true);
    if (this.holdTimer === 0) {
      this.watchHold();
    }
  }

  watchHold() {
    const left = this.heldUntil - Date.now();
    if (left <= 0) {
      this.holdTimer = 0;
      this.setHeld(false);
      this.refresh();
    } else {
      this.holdTimer = setTimeout(() => this.watchHold(), left + 5);
    }
  }

  release() {
    this.heldUntil = Math.min(this.heldUntil, Date.now() + 500);
    clearTimeout(this.holdTimer);
    this.watchHold();
  }

  /** @param {boolean} isHeld */
  setHeld(isHeld) {
    if (isHeld !== this.isHeld) {
      this.isHeld = isHeld;
      this.options.onHold?.(isHeld);
    }
  }

  // -- drawing

  /** The column by which rows are sorted. */
  sortColumn() {
    const name = (this.sort === "" ? (this.options.usualSort ?? "") : this.sort).replace(/^-/, "");
    return this.options.columns.find((column) => (column.order || column.name) === name || column.name === name);
  }

  /** The columns that are wanted, in their order. */
  wantedColumns() {
    const { columns } = this.options;
    if (this.chosen === undefined) {
      return columns.filter((column) => isUsual(column) && (!column.for_some || this.filled.has(column)));
    }
    const chosen = this.chosen;
    const found = columns.filter((column) => chosen.includes(column.name));
    return found.length > 0 ? found : columns.filter(isUsual);
  }

  /**
   * Choose the columns that have room, and how wide they are.
   *
   * @param {boolean} [isForced]
   */
  layOut(isForced = false) {
    const width = this.element.clientWidth;
    if (width === 0) {
      return;
    }
    this.room = this.element.clientHeight - this.headRow.offsetHeight;
    const style = getComputedStyle(this.element);
    this.rowPixels = Number.parseFloat(style.getPropertyValue("--row")) || 28;
    this.charPixels = digitPixels(`${style.fontSize} ${style.fontFamily}`);
    // A text takes no more than it has ever needed: the room is for others.
    const longest = (/** @type {Column} */ column) => this.longest.get(column) || Infinity;
    const least = (/** @type {Column} */ column) => this.pixels(column, Math.min(charactersOf(column), longest(column)));
    const most = (/** @type {Column} */ column) =>
      Math.max(least(column), this.pixels(column, Math.min(column.wanted_width ?? 0, this.longest.get(column) ?? 0)));
    let room = width - (this.options.selectable ? SELECT_PIXELS : 0);
    let shown = this.wantedColumns();
    // What a column wants makes others leave, unless those that never leave want too much.
    const kept = shown.filter((column) => (column.importance ?? 5) === 0);
    const needs = kept.reduce((all, column) => all + most(column), 0) <= room ? most : least;
    const sum = (/** @type {Column[]} */ columns) => columns.reduce((all, column) => all + needs(column), 0);
    if (this.chosen === undefined) {
      const sorted = this.sort === "" ? undefined : this.sortColumn();
      const importance = (/** @type {Column} */ column) => (column === sorted ? 0 : (column.importance ?? 5));
      while (shown.length > 1 && sum(shown) > room) {
        const most = Math.max(...shown.map(importance));
        const rest = shown.filter((column) => importance(column) < most);
        if (rest.length === 0) {
          break;
        }
        // Of those that leave, what has room stays, but for halves of a pair.
        const before = shown;
        shown = rest;
        for (const column of before) {
          const isHalf = /^(up|down)/.test(column.name);
          if (importance(column) === most && !isHalf && sum([...shown, column]) <= room) {
            const chosen = new Set([...shown, column]);
            shown = before.filter((each) => chosen.has(each));
          }
        }
      }
    }
    // What room is left goes to those that can make use of it; then nobody.
    let left = room - sum(shown);
    const widths = shown.map(needs);
    const wishes = shown.map((column, index) =>
      Math.max(0, this.pixels(column, Math.min(column.max_width ?? 0, this.longest.get(column) ?? 0)) - (widths[index] ?? 0)),
    );
    const allWishes = wishes.reduce((all, each) => all + each, 0);
    if (left > 0 && allWishes > 0) {
      const share = Math.min(1, left / allWishes);
      wishes.forEach((wish, index) => {
        widths[index] = (widths[index] ?? 0) + Math.floor(wish * share);
      });
      left -= Math.floor(allWishes * share);
    }
    const tracks = widths.map((each) => `${Math.round(each)}px`);
    if (this.options.selectable) {
      tracks.unshift(`${SELECT_PIXELS}px`);
    }
    const isOther =
      isForced || shown.length !== this.shown.length || shown.some((column, index) => column !== this.shown[index]);
    this.shown = shown;
    this.element.style.setProperty("--tracks", tracks.join(" "));
    this.element.style.setProperty("--wide", `${Math.round(widths.reduce((all, each) => all + each, 0) + width - room)}px`);
    if (isOther) {
      this.drawHead();
      this.block.replaceChildren();
      this.lines = [];
    }
    this.draw();
    if (this.isKnown && !this.isInViewKnown()) {
      this.scheduleLoad();
    }
  }

  /**
   * @param {Column} column
   * @param {number} characters
   */
  pixels(column, characters) {
    return Math.max(characters, column.title.length + 1) * this.charPixels + CELL_PADDING;
  }

  drawHead() {
    const sorted = this.sortColumn();
    const isReversed = this.sort.startsWith("-");
    const cells = this.shown.map((column, index) => {
      const isSorted = column === sorted;
      const isDown = isDescending(column, isReversed);
      return h(
        "div",
        {
          role: "columnheader",
          class: `grid-cell ${column.align === "right" ? "right" : ""}`,
          "aria-colindex": String(index + 1 + (this.options.selectable ? 1 : 0)),
          "aria-sort": isSorted ? (isDown ? "descending" : "ascending") : isSortable(column) ? "none" : null,
          title: column.help,
        },
        isSortable(column)
          ? h(
              "button",
              { type: "button", class: "sort", dataset: { column: column.name }, onclick: () => this.onHead(column) },
              column.title,
              h("span", { class: "sort-mark", "aria-hidden": "true" }, isSorted ? (isDown ? "▼" : "▲") : ""),
            )
          : column.title,
      );
    });
    if (this.options.selectable) {
      cells.unshift(
        h(
          "div",
          { role: "columnheader", class: "grid-cell", "aria-colindex": "1" },
          h("span", { class: "visually-hidden" }, "Selected"),
        ),
      );
    }
    const focused = document.activeElement;
    const column = focused instanceof HTMLElement && this.headRow.contains(focused) ? focused.dataset.column : undefined;
    this.headRow.replaceChildren(...cells);
    if (column !== undefined) {
      for (const button of this.headRow.querySelectorAll("button")) {
        if (button.dataset.column === column) {
          button.focus();
        }
      }
    }
    setAttribute(this.element, "aria-colcount", String(cells.length));
  }

  setHeight() {
    const height = Math.min(MOST_PIXELS, this.total * this.rowPixels);
    if (height !== this.height) {
      this.height = height;
      this.canvas.style.height = `${height}px`;
      // A table of few rows is as high as they are.
      const before = this.room;
      this.room = this.element.clientHeight - this.headRow.offsetHeight;
      if (before !== this.room || this.top > height) {
        this.top = this.element.scrollTop;
      }
    }
  }

  draw() {
    if (this.isDestroyed) {
      return;
    }
    this.setHeight();
    setAttribute(this.element, "aria-rowcount", String(this.total + 1));
    setAttribute(this.element, "aria-busy", this.isKnown ? null : "true");
    this.note.hidden = !(this.isKnown && this.total === 0);
    setText(this.note, this.options.empty ?? "There are none.");
    const { first, count } = this.inView();
    const start = Math.max(0, Math.min(first, this.total - 1) - OVERSCAN);
    const end = Math.min(this.total, first + count + OVERSCAN);
    this.recycle(start, Math.max(start, end));
    this.block.style.transform = `translateY(${start * this.rowPixels}px)`;
    for (const line of this.lines) {
      this.drawLine(line);
    }
    const active = this.lines.find((line) => line.index === this.activeIndex);
    setAttribute(this.element, "aria-activedescendant", active?.element.id ?? null);
  }

  /**
   * Have a line for each of these places, in the order of the page; those that leave are used for
   * those that come.
   *
   * @param {number} start
   * @param {number} end
   */
  recycle(start, end) {
    /** @type {Line[]} */
    const free = [];
    /** @type {Map<number, Line>} */
    const kept = new Map();
    for (const line of this.lines) {
      if (line.index >= start && line.index < end && !kept.has(line.index)) {
        kept.set(line.index, line);
      } else {
        free.push(line);
      }
    }
    const lines = [];
    /** @type {Element | null} */
    let next = this.block.firstElementChild;
    for (let index = start; index < end; index += 1) {
      const line = kept.get(index) ?? free.pop() ?? this.makeLine();
      if (line.index !== index) {
        line.index = index;
        line.element.setAttribute("aria-rowindex", String(index + 2));
      }
      if (line.element === next) {
        next = next.nextElementSibling;
      } else {
        this.block.insertBefore(line.element, next);
      }
      lines.push(line);
    }
    for (const line of free) {
      line.element.remove();
    }
    this.lines = lines;
  }

  /** @returns {Line} */
  makeLine() {
    this.linesMade = (this.linesMade ?? 0) + 1;
    const first = this.linkColumn();
    /** @type {HTMLAnchorElement | null} */
    let link = null;
    const cells = this.shown.map((column, index) => {
      const cell = h("div", {
        role: "gridcell",
        class: "grid-cell",
        "aria-colindex": String(index + 1 + (this.options.selectable ? 1 : 0)),
      });
      if (column === first && this.options.href !== undefined) {
        link = h("a", { tabindex: "-1" }, "…");
        cell.append(link);
      } else {
        cell.append(document.createTextNode(""));
      }
      return cell;
    });
    const box = this.options.selectable ? h("input", { type: "checkbox", tabindex: "-1", "aria-label": "Select" }) : null;
    const element = h("div", { role: "row", class: "grid-row", id: `${this.id}-line-${this.linesMade}` });
    if (box !== null) {
      element.append(h("div", { role: "gridcell", class: "grid-cell grid-select", "aria-colindex": "1" }, box));
    }
    element.append(...cells);
    return {
      element,
      cells,
      texts: cells.map(() => ""),
      classes: cells.map(() => "?"),
      className: "",
      row: undefined,
      isDrawn: false,
      box,
      link,
      index: -1,
    };
  }

  /** The column that is a link: the first that never leaves. */
  linkColumn() {
    return this.shown.find((column) => column.importance === 0) ?? this.shown[0];
  }

  /** @param {Line} line */
  drawLine(line) {
    const { options } = this;
    const row = this.rows.get(line.index);
    const key = row === undefined ? "" : String(options.key(row));
    const isSelected = row !== undefined && this.selected.has(key);
    const isEnded = this.ended.has(key);
    let className = line.index % 2 === 1 ? "grid-row odd" : "grid-row";
    if (row === undefined) {
      className += " unknown";
    } else {
      const more = options.rowClass?.(row) ?? "";
      className += `${isEnded ? " ended" : ""}${isSelected ? " selected" : ""}${more === "" ? "" : ` ${more}`}`;
    }
    if (line.index === this.activeIndex) {
      className += " active";
    }
    const isSame = line.row === row && line.isDrawn && line.className.includes(" ended") === isEnded;
    if (line.className !== className) {
      line.className = className;
      line.element.className = className;
      if (options.selectable) {
        setAttribute(line.element, "aria-selected", String(isSelected));
      }
    }
    if (line.box !== null && line.box.checked !== isSelected) {
      line.box.checked = isSelected;
    }
    if (isSame) {
      return; // most lines, while somebody scrolls
    }
    line.row = row;
    line.isDrawn = true;
    if (line.link !== null) {
      setAttribute(line.link, "href", row === undefined ? undefined : options.href?.(row));
    }
    for (let index = 0; index < this.shown.length; index += 1) {
      const column = this.shown[index];
      const cell = line.cells[index];
      if (column === undefined || cell === undefined) {
        continue;
      }
      const text = row === undefined ? "" : isEnded && column.name === "state" ? "ended" : this.text(column, row);
      if (line.texts[index] !== text) {
        line.texts[index] = text;
        const target = (cell.firstElementChild ?? cell).firstChild;
        if (target instanceof Text) {
          target.data = text;
        }
      }
      const more = `${text === "-" ? "none " : ""}${row === undefined ? "" : (options.cellClass?.(column, row) ?? "")}`;
      if (line.classes[index] !== more) {
        line.classes[index] = more;
        cell.className = `grid-cell${column.align === "right" ? " right" : ""} ${more}`;
      }
    }
  }

  /**
   * @param {Column} column
   * @param {Row} row
   * @returns {any}
   */
  value(column, row) {
    const own = this.options.value?.(column, row);
    return own === undefined ? cellValue(column, row) : own;
  }

  /**
   * @param {Column} column
   * @param {Row} row
   * @returns {string}
   */
  text(column, row) {
    const text = printable(this.options.cellText?.(column, row) ?? formatValue(this.value(column, row), column.unit));
    return text.length > 256 ? `${text.slice(0, 255)}…` : text;
  }

  // -- keys and pointers

  onScroll() {
    const { scrollTop } = this.element;
    if (scrollTop !== this.top) {
      this.scrollDirection = Math.sign(scrollTop - this.top);
      this.top = scrollTop;
      this.pointedIndex = -1;
    }
    if (this.frame === 0) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.draw();
        if (this.options.fetch !== undefined && !this.isInViewKnown()) {
          this.scheduleLoad();
        }
      });
    }
  }

  onFocus() {
    if (this.activeIndex < 0 && this.total > 0) {
      this.moveTo(this.inView().first, true);
    }
  }

  /** @param {Column} column */
  onHead(column) {
    const name = column.order || column.name;
    const now = this.sort === "" ? (this.options.usualSort ?? "") : this.sort;
    let sort = now === name ? `-${name}` : name;
    if (sort === this.options.usualSort) {
      sort = "";
    }
    if (this.options.onSort === undefined) {
      this.setSort(sort);
    } else {
      this.options.onSort(sort);
    }
  }

  /** @param {Event} event */
  lineOf(event) {
    const target = event.target instanceof Element ? event.target.closest(".grid-row") : null;
    return this.lines.find((line) => line.element === target);
  }

  /** @param {PointerEvent} event */
  onPointer(event) {
    const line = this.lineOf(event);
    if (line !== undefined && event.pointerType !== "touch") {
      this.pointedIndex = line.index;
      this.hold();
      const cell = event.target instanceof Element ? event.target.closest(".grid-cell") : null;
      if (cell instanceof HTMLElement && !cell.classList.contains("grid-select")) {
        setAttribute(cell, "title", cell.scrollWidth > cell.clientWidth ? cell.textContent : null);
      }
    }
  }

  /** @param {MouseEvent} event */
  onClick(event) {
    const line = this.lineOf(event);
    if (line === undefined) {
      return;
    }
    const isLink = event.target instanceof Element && event.target.closest("a") !== null;
    if (isLink) {
      return;
    }
    const isSelect = event.target instanceof Element && event.target.closest(".grid-select") !== null;
    const pivot = this.pivotIndex;
    this.moveTo(line.index, false);
    if (this.options.selectable) {
      if (event.shiftKey && pivot >= 0) {
        this.selectRange(pivot, line.index);
        getSelection()?.removeAllRanges();
      } else if (isSelect || event.ctrlKey || event.metaKey) {
        this.toggle(line.index);
      }
    }
    if (!event.shiftKey) {
      this.pivotIndex = line.index;
    }
  }

  /** @param {MouseEvent} event */
  onDoubleClick(event) {
    const line = this.lineOf(event);
    const isSelect = event.target instanceof Element && event.target.closest(".grid-select") !== null;
    if (line !== undefined && !isSelect) {
      this.open(line.index);
    }
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.target !== this.element || event.altKey || (event.metaKey && event.key !== "a")) {
      return;
    }
    const page = Math.max(1, this.inView().count - 2);
    /** @type {Record<string, number>} */
    const moves = {
      ArrowDown: this.activeIndex + 1,
      ArrowUp: this.activeIndex - 1,
      j: this.activeIndex + 1,
      k: this.activeIndex - 1,
      PageDown: this.activeIndex + page,
      PageUp: this.activeIndex - page,
      Home: 0,
      End: this.total - 1,
    };
    const place = moves[event.key];
    if (place !== undefined && !event.ctrlKey) {
      const to = Math.max(0, Math.min(this.total - 1, place));
      if (event.shiftKey && this.options.selectable) {
        if (this.pivotIndex < 0) {
          this.pivotIndex = this.activeIndex;
        }
        this.selectRange(this.pivotIndex, to);
      } else {
        this.pivotIndex = to;
      }
      this.moveTo(to, true);
    } else if (event.key === "Enter") {
      this.open(this.activeIndex);
    } else if (event.key === " " && this.options.selectable) {
      this.toggle(this.activeIndex);
    } else if (event.key === "Escape" && this.selected.size > 0) {
      this.clearSelection();
    } else {
      return;
    }
    this.hold();
    event.preventDefault();
    event.stopPropagation();
  }

  /**
   * @param {number} index
   * @param {boolean} isScrolled Whether it comes into view.
   */
  moveTo(index, isScrolled) {
    if (index < 0 || index >= this.total) {
      return;
    }
    this.activeIndex = index;
    const row = this.rows.get(index);
    this.active = row === undefined ? null : String(this.options.key(row));
    if (isScrolled) {
      const top = index * this.rowPixels;
      if (top < this.top) {
        this.scrollTo(top);
      } else if (top + this.rowPixels > this.top + this.room) {
        this.scrollTo(top + this.rowPixels - this.room);
      }
    }
    this.draw();
  }

  /** @param {number} index */
  open(index) {
    const row = this.rows.get(index);
    if (row === undefined) {
      return;
    }
    const href = this.options.href?.(row);
    if (href !== undefined) {
      location.hash = href.replace(/^[^#]*/, "");
    } else {
      this.options.onOpen?.(row);
    }
  }

  /** @param {number} index */
  toggle(index) {
    const row = this.rows.get(index);
    if (row === undefined) {
      return;
    }
    const key = String(this.options.key(row));
    if (!this.selected.delete(key)) {
      this.selected.set(key, row);
    }
    this.selectionChanged();
  }

  /**
   * @param {number} one
   * @param {number} other
   */
  selectRange(one, other) {
    for (let index = Math.min(one, other); index <= Math.max(one, other); index += 1) {
      const row = this.rows.get(index);
      if (row !== undefined) {
        this.selected.set(String(this.options.key(row)), row);
      }
    }
    this.selectionChanged();
  }

  selectionChanged() {
    this.draw();
    this.options.onSelect?.(this.selected);
  }
}

/** @type {Map<string, number>} */
const measured = new Map();

/**
 * How wide a digit is.
 *
 * @param {string} font
 */
function digitPixels(font) {
  let pixels = measured.get(font);
  if (pixels === undefined) {
    const drawing = document.createElement("canvas").getContext("2d");
    if (drawing === null) {
      return 8;
    }
    drawing.font = font;
    pixels = drawing.measureText("0123456789").width / 10;
    measured.set(font, pixels);
  }
  return pixels;
}
