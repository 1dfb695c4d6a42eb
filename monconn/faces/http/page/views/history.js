/** What is over: connections that have ended, and events (refusals, alarms, actions, starts). */
import { Problem, get } from "../api.js";
import { openDialog } from "../dialogs.js";
import { h, replace } from "../dom.js";
import { FilterField } from "../filter.js";
import { periodPicker, problemOfFilter, serviceChoices, servicePicker, textField, whenBack } from "../pickers.js";
import { PlainTable } from "../table/plain.js";
import { cellValue } from "../table/columns.js";
import { asDate, formatCount, formatValue } from "../units.js";
import { meaningOf } from "../words.js";
import { noHistory } from "./report.js";

/**
 * @typedef {import("../types.js").Column} Column
 * @typedef {import("../types.js").Context} Context
 * @typedef {import("../types.js").Params} Params
 * @typedef {import("../types.js").Row} Row
 *
 * @typedef {object} Kind
 * @property {string} name
 * @property {string} text
 * @property {string} path
 * @property {string} listing
 * @property {string} time The column by which the latest ones come first.
 * @property {string} reason What `reason` is called.
 */

const USUAL = "24h";
const MOST_ROWS = 500;

/** @type {Kind} */
const CONNECTIONS = { name: "", text: "Connections", path: "history", listing: "history", time: "closed_at", reason: "Reason" };
/** @type {Kind} */
const EVENTS = { name: "events", text: "Events", path: "history/events", listing: "history_events", time: "at", reason: "What" };
const KINDS = [CONNECTIONS, EVENTS];

export default { title: "History", mount };

/**
 * @param {HTMLElement} root
 * @param {Params} params
 * @param {Context} context
 */
async function mount(root, params, context) {
  if (context.session.has.history === false) {
    replace(root, noHistory("History"));
    return () => {};
  }
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "What is listed" });
  const place = h("div", { class: "history" });
  replace(root, h("div", { class: "view-head" }, h("h1", null, "History"), tabs), place);
  /** @type {{kind: Kind, list: HistoryList} | null} */
  let shown = null;
  let number = 0;

  /** @param {Params} wanted */
  async function update(wanted) {
    const mine = (number += 1);
    params = wanted;
    const kind = KINDS.find((each) => each.name === (params.kind ?? "")) ?? CONNECTIONS;
    replace(
      tabs,
      ...KINDS.map((each) =>
        h(
          "a",
          {
            href: context.link("history", { ...params, kind: each.name, reason: "", sort: "", filter: "" }),
            "aria-current": each === kind ? "page" : null,
          },
          each.text,
        ),
      ),
    );
    if (shown?.kind !== kind) {
      shown?.list.destroy();
      shown = null;
      const { columns, keys } = await context.columns(kind.listing);
      if (mine !== number) {
        return;
      }
      shown = { kind, list: new HistoryList(kind, columns, keys, params, context) };
      replace(place, shown.list.element);
    }
    shown.list.update(params);
  }

  await update(params);
  return {
    unmount() {
      number += 1;
      shown?.list.destroy();
    },
    update,
  };
}

/** The connections, or the events, with what chooses them. */
class HistoryList {
  /**
   * @param {Kind} kind
   * @param {Column[]} columns
   * @param {import("../types.js").FilterKey[]} keys
   * @param {Params} params
   * @param {Context} context
   */
  constructor(kind, columns, keys, params, context) {
    this.kind = kind;
    this.columns = columns;
    this.params = params;
    this.context = context;
    this.number = 0;
    this.back = whenBack(context, () => this.load());
    const period = (/** @type {import("../pickers.js").Period} */ wanted) => this.go({ ...wanted });
    this.period = periodPicker({ period: periodOf(params), onChange: period });
    this.service = servicePicker(context, { value: params.service ?? "", onChange: (service) => this.go({ service }) });
    this.client = textField({
      label: "Client",
      value: params.client ?? "",
      placeholder: "all, or 10.0.0.0/8",
      help: "Only of this IP or network.",
      onChange: (client) => this.go({ client }),
    });
    const choices = keys.find((each) => each.name === "reason")?.choices ?? [];
    this.reason = h(
      "select",
      { id: "history-reason", onchange: () => this.go({ reason: this.reason.value }) },
      h("option", { value: "" }, "all"),
      ...choices.map((each) => h("option", { value: each }, each)),
    );
    this.filter = new FilterField({
      onLeave: () => this.table.focus(),
      label: `Filter of ${kind.text.toLowerCase()}`,
      keys,
      value: params.filter ?? "",
      values: { service: () => serviceChoices(context) },
      placeholder: kind === EVENTS ? "event:alarm" : "up:1MiB.. not:reason:client_closed",
      onFilter: (filter) => this.go({ filter }, true),
    });
    this.problem = h("p", { class: "error", role: "alert" });
    this.count = h("span", { class: "muted", "aria-live": "polite" });
    this.older = h("a", { class: "button", hidden: true }, "Older ones");
    /** @type {PlainTable} */
    this.table = new PlainTable({
      label: kind.text,
      columns,
      key: (row) => `${row[kind.time]} ${row.run_started_at ?? ""} ${row.id ?? ""} ${row.event ?? ""} ${row.number}`,
      sort: params.sort ?? "",
      isSorted: true,
      onSort: (sort) => this.go({ sort }),
      cell: (column, row) => this.cell(column, row),
      empty: "Nothing is stored that matches.",
    });
    this.element = h(
      "div",
      { class: "history-list" },
      h(
        "div",
        { class: "toolbar" },
        this.period.element,
        this.service.element,
        this.client.element,
        h("div", { class: "picker" }, h("label", { for: "history-reason" }, kind.reason), this.reason),
        h("button", { type: "button", onclick: () => this.load() }, "Refresh"),
      ),
      this.filter.element,
      this.problem,
      this.table.element,
      h("div", { class: "toolbar" }, this.count, this.older),
    );
  }

  /**
   * @param {Params} changed
   * @param {boolean} [isReplaced] Whether "back" skips what was before.
   */
  go(changed, isReplaced = false) {
    const { kind, since, until, service, client, reason, filter, sort } = this.params;
    const wanted = { kind, since, until, service, client, reason, filter, sort, ...changed };
    this.context.navigate("history", wanted, { replace: isReplaced });
  }

  /**
   * @param {Column} column
   * @param {Row} row
   * @returns {Node | string}
   */
  cell(column, row) {
    const value = this.kind === EVENTS ? valueOfEvent(column.name, row) : undefined;
    const text = formatValue(value ?? cellValue(column, row), column.unit);
    if (column !== this.table.shown[0]) {
      return text;
    }
    const open = () => showRow(row, this.columns, this.context);
    return h("button", { type: "button", class: "link", onclick: open, title: "All that is stored of it" }, text);
  }

  /** @param {Params} params */
  update(params) {
    this.params = params;
    this.period.update(periodOf(params));
    this.service.update(params.service ?? "");
    this.client.update(params.client ?? "");
    this.reason.value = params.reason ?? "";
    if (this.filter.value !== (params.filter ?? "")) {
      this.filter.set(params.filter ?? "");
    }
    this.table.setSort(params.sort ?? "");
    this.load();
  }

  async load() {
    const mine = (this.number += 1);
    const { service, client, reason, filter, sort } = this.params;
    const wanted = { service, client, reason, filter, sort, ...periodOf(this.params), limit: MOST_ROWS, max_age: 1 };
    this.table.element.setAttribute("aria-busy", "true");
    try {
      const { rows } = await get(this.kind.path, wanted);
      if (mine !== this.number) {
        return;
      }
      this.filter.setProblem(null);
      this.client.setProblem("");
      replace(this.problem);
      this.show(rows);
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      this.back.missed(error);
      if (mine !== this.number) {
        return;
      }
      const ofFilter = problemOfFilter(error);
      const ofClient = error.errors.find((each) => each.name === "client");
      this.filter.setProblem(ofFilter);
      this.client.setProblem(ofClient?.detail ?? "");
      replace(this.problem, ofFilter === null && ofClient === undefined ? error.message : null);
    } finally {
      this.table.element.removeAttribute("aria-busy");
    }
  }

  /** @param {Row[]} rows */
  show(rows) {
    this.table.setRows(rows.map((row, number) => ({ ...row, number })));
    const isAll = rows.length < MOST_ROWS;
    const text = isAll ? `${formatCount(rows.length)} in this period` : `The latest ${formatCount(rows.length)}, and there may be more`;
    replace(this.count, rows.length === 0 ? "" : this.params.sort && !isAll ? `The first ${formatCount(rows.length)} in this order` : text);
    const last = rows.at(-1)?.[this.kind.time];
    this.older.hidden = isAll || Boolean(this.params.sort) || last === undefined;
    if (!this.older.hidden) {
      // A millisecond later, as until is excluded: what is shown twice is not lost.
      const until = new Date(asDate(last).getTime() + 1).toISOString();
      this.older.href = this.context.link("history", { ...this.params, ...periodOf(this.params), until });
    }
  }

  destroy() {
    this.number += 1;
    this.back.off();
    this.filter.destroy();
    this.table.destroy();
  }
}

/**
 * What stands in a column that several fields are made into one for; undefined for others.
 *
 * @param {string} name
 * @param {Row} row
 */
function valueOfEvent(name, row) {
  if (name === "client") {
    return row.client ?? row.device ?? row.actor;
  }
  if (name === "what") {
    if (row.alarm) {
      return `${row.alarm}${row.over ? " is over" : ""}`;
    }
    return row.refusal ?? row.action ?? (row.count === undefined ? row.event : `${row.event} ${row.count}`);
  }
  return undefined;
}

/** @param {Params} params */
function periodOf(params) {
  return { since: params.since || USUAL, until: params.until ?? "" };
}

/**
 * All that is stored of one connection, or event.
 *
 * @param {Row} row
 * @param {Column[]} columns
 * @param {Context} context
 */
function showRow(row, columns, context) {
  const known = columns.filter(
    (column) => column.unit !== "object" && cellValue(column, row) !== undefined && cellValue(column, row) !== null && cellValue(column, row) !== "",
  );
  const facts = Object.entries(row.facts ?? {});
  const isConnection = row.client_ip && row.event === undefined;
  const word = row.reason ?? row.refusal ?? row.alarm ?? row.action;
  const meaning = h("p", { class: "muted" });
  if (word) {
    meaningOf(word).then((text) => replace(meaning, text === "" ? null : `${word}: ${text}.`));
  }
  return openDialog({
    title: isConnection ? `Connection of ${row.client}` : `Event: ${row.event}`,
    className: "wide",
    content: (close) => {
      const leave = () => close(undefined);
      const link = (/** @type {string} */ text, /** @type {string} */ href) => h("a", { class: "button", href, onclick: leave }, text);
      return [
        meaning,
        h(
          "dl",
          { class: "fact-list" },
          ...known.flatMap((column) => [
            h("dt", { title: column.help }, column.title.toLowerCase()),
            h("dd", null, formatValue(cellValue(column, row), column.unit)),
          ]),
          ...facts.flatMap(([name, value]) => [h("dt", null, name), h("dd", null, String(value))]),
        ),
        h(
          "div",
          { class: "dialog-buttons" },
          row.uid ? link("As remembered", context.link(`connections/${encodeURIComponent(row.uid)}`)) : null,
          row.device ? link("The device", context.link(`devices/${encodeURIComponent(row.device)}`)) : null,
          row.client_ip ? link("All of this client", context.link("history", { client: row.client_ip, since: "7d" })) : null,
          row.client_ip ? link("Why", context.link("why", { client: row.client_ip })) : null,
        ),
      ];
    },
  });
}
