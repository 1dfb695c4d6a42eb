/** What is over: connections that have ended, and events (refusals, alarms, actions, starts). */
import { Problem, get } from "../api.js";
import { openDialog } from "../dialogs.js";
import { h, replace } from "../dom.js";
import { periodPicker, servicePicker, textField } from "../pickers.js";
import { PlainTable } from "../plaintable.js";
import { cellValue } from "../table.js";
import { formatCount, formatTime, formatValue } from "../units.js";
import { noHistory } from "./report.js";

/**
 * @typedef {import("../types.js").Column} Column
 * @typedef {import("../types.js").Context} Context
 * @typedef {import("../types.js").Params} Params
 * @typedef {import("../types.js").Row} Row
 *
 * @typedef {object} Kind
 * @property {string} text
 * @property {string} path
 * @property {string} listing
 * @property {string} time The column by which the latest ones come first.
 */

const USUAL = "24h";
const PAGE_ROWS = 100;

/** @type {Record<string, Kind>} */
const KINDS = {
  connections: { text: "Connections", path: "history", listing: "history", time: "closed_at" },
  events: { text: "Events", path: "history/events", listing: "history_events", time: "at" },
};

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
  let number = 0;
  /** @type {{rows: Row[], next?: string}[]} The pages that were asked for. */
  let pages = [];
  let shown = 0;
  /** @type {PlainTable | null} */
  let table = null;
  let tableOf = "";
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "What is listed" });
  const period = periodPicker({ period: periodOf(params), onChange: (wanted) => go({ ...wanted }) });
  const service = servicePicker(context, { value: params.service ?? "", onChange: (value) => go({ service: value }) });
  const reason = h("select", { id: "history-reason", onchange: () => go({ reason: reason.value }) });
  const reasonLabel = h("label", { for: reason.id });
  const filter = textField({
    label: "Filter",
    value: params.filter ?? "",
    placeholder: "client:10.0.0.0/8 up:1MiB..",
    help: "Terms such as client:10.0.0.0/8, up:1MiB.., age:..1s, mqtt_client_id:pump-1, or any text.",
    isFilter: true,
    onChange: (value) => go({ filter: value }),
  });
  const problem = h("p", { class: "error", role: "alert" });
  const place = h("div", { class: "table-place" });
  const previous = h("button", { type: "button", onclick: () => turn(-1) }, "Newer");
  const next = h("button", { type: "button", onclick: () => turn(1) }, "Older");
  const where = h("span", { "aria-live": "polite" });
  const again = h("button", { type: "button", onclick: () => load() }, "Refresh");
  replace(
    root,
    h("div", { class: "view-head" }, h("h1", null, "History"), tabs),
    h(
      "div",
      { class: "toolbar" },
      period.element,
      service.element,
      h("div", { class: "picker" }, reasonLabel, reason),
      filter.element,
      again,
    ),
    problem,
    place,
    h("div", { class: "pager" }, previous, where, next),
  );

  function kind() {
    return KINDS[params.kind ?? ""] ?? /** @type {Kind} */ (KINDS.connections);
  }

  /** @param {Params} changed */
  function go(changed) {
    const { since, until, service: name, reason: why, client, sort, kind: what, filter: terms } = params;
    context.navigate("history", { kind: what, since, until, service: name, client, reason: why, filter: terms, sort, ...changed });
  }

  /** Draw what depends on whether connections or events are listed. */
  async function drawKind() {
    const now = kind();
    replace(
      tabs,
      ...Object.entries(KINDS).map(([name, { text }]) =>
        h(
          "a",
          {
            href: context.link("history", { ...params, kind: name === "connections" ? "" : name, reason: "", sort: "", filter: "" }),
            "aria-current": KINDS[name] === now ? "page" : null,
          },
          text,
        ),
      ),
    );
    const { columns, keys } = await context.columns(now.listing);
    if (kind() !== now || tableOf === now.listing) {
      return;
    }
    const choices = keys.find((each) => each.name === "reason")?.choices ?? [];
    replace(reasonLabel, now.listing === "history" ? "Reason" : "What");
    replace(reason, h("option", { value: "" }, "all"), ...choices.map((each) => h("option", { value: each }, each)));
    table?.destroy();
    tableOf = now.listing;
    table = new PlainTable({
      label: now.text,
      columns,
      key: (row) => `${row[now.time]} ${row.run_started_at ?? ""} ${row.id ?? ""} ${JSON.stringify(row).length} ${pages[shown]?.rows.indexOf(row)}`,
      sort: params.sort ?? "",
      isSorted: true,
      onSort: (sort) => go({ sort }),
      cell: (column, row) => cell(column, row, columns),
      empty: "Nothing is stored that matches.",
    });
    replace(place, table.element);
  }

  /**
   * @param {Column} column
   * @param {Row} row
   * @param {Column[]} columns
   */
  function cell(column, row, columns) {
    if (column.name === kind().time) {
      const open = () => showRow(row, columns, context);
      return h("button", { type: "button", class: "link", onclick: open, title: "All that is stored of it" }, formatTime(row[column.name]));
    }
    return undefined;
  }

  async function load() {
    const mine = (number += 1);
    await drawKind();
    reason.value = params.reason ?? "";
    pages = [];
    shown = 0;
    await ask(mine, undefined);
  }

  /**
   * @param {number} mine
   * @param {string | undefined} cursor
   */
  async function ask(mine, cursor) {
    const { filter: terms, service: name, client, reason: why, sort } = params;
    const wanted = periodOf(params);
    place.setAttribute("aria-busy", "true");
    try {
      const answer = await get(kind().path, { filter: terms, service: name, client, reason: why, sort, ...wanted, limit: PAGE_ROWS, cursor });
      if (mine !== number) {
        return;
      }
      pages.push(answer);
      shown = pages.length - 1;
      filter.setProblem("");
      replace(problem);
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      if (mine !== number) {
        return;
      }
      const isOfFilter = error.errors.some((each) => each.name === "filter");
      filter.setProblem(isOfFilter ? error.message : "");
      replace(problem, isOfFilter ? null : error.message);
    } finally {
      place.removeAttribute("aria-busy");
    }
    drawPage();
  }

  function drawPage() {
    const page = pages[shown];
    table?.setRows(page?.rows ?? []);
    previous.disabled = shown === 0;
    next.disabled = page?.next === undefined;
    const before = pages.slice(0, shown).reduce((sum, each) => sum + each.rows.length, 0);
    const count = page?.rows.length ?? 0;
    const more = page?.next === undefined ? "" : ", and more";
    replace(where, count === 0 ? "" : `${formatCount(before + 1)} to ${formatCount(before + count)}${more}`);
    const isAlone = pages.length < 2 && page?.next === undefined;
    previous.hidden = next.hidden = isAlone;
  }

  /** @param {number} by */
  async function turn(by) {
    const wanted = shown + by;
    if (wanted < pages.length) {
      shown = wanted;
      drawPage();
    } else {
      await ask(number, pages.at(-1)?.next);
    }
    root.scrollIntoView({ block: "start" });
  }

  /** @param {Params} wanted */
  function update(wanted) {
    params = wanted;
    period.update(periodOf(params));
    service.update(params.service ?? "");
    filter.update(params.filter ?? "");
    table?.setSort(params.sort ?? "");
    load();
  }

  load();
  return {
    unmount() {
      number += 1;
      table?.destroy();
    },
    update,
  };
}

/** @param {Params} params */
function periodOf(params) {
  return { since: params.since ?? USUAL, until: params.until ?? "" };
}

/**
 * All that is stored of one connection, or event.
 *
 * @param {Row} row
 * @param {Column[]} columns
 * @param {Context} context
 */
function showRow(row, columns, context) {
  const known = columns.filter((column) => cellValue(column, row) !== undefined && cellValue(column, row) !== null);
  const others = Object.keys(row.facts ?? {});
  const uid = row.uid ?? null;
  return openDialog({
    title: row.client ? `Connection of ${row.client}` : String(row.event ?? "Event"),
    className: "wide",
    content: (close) => [
      h(
        "dl",
        { class: "facts" },
        ...known.flatMap((column) => [
          h("dt", { title: column.help }, column.title.toLowerCase()),
          h("dd", null, formatValue(cellValue(column, row), column.unit)),
        ]),
        ...others.flatMap((name) => [h("dt", null, name), h("dd", null, String(row.facts[name]))]),
      ),
      h(
        "div",
        { class: "dialog-buttons" },
        uid === null ? null : h("a", { class: "button", href: context.link(`connections/${encodeURIComponent(uid)}`), onclick: () => close(undefined) }, "As remembered"),
        row.client_ip ? h("a", { class: "button", href: context.link("history", { filter: `client:${row.client_ip}` }), onclick: () => close(undefined) }, "All of this client") : null,
        row.client_ip ? h("a", { class: "button", href: context.link("why", { client: row.client_ip }), onclick: () => close(undefined) }, "Why") : null,
      ),
    ],
  });
}
