/** The live connections: filter, order, selection, and what is done with the selected ones. */
import { blockClients, closeConnections, closeMatching, counted } from "../actions.js";
import { Problem, get } from "../api.js";
import { chooseColumns, chosenColumns } from "../table/choice.js";
import { notifyProblem } from "../dialogs.js";
import { h, replace, setText } from "../dom.js";
import { FilterField } from "../filter.js";
import { cellValue } from "../table/columns.js";
import { Table } from "../table/table.js";
import { formatCount, formatDuration } from "../units.js";

/** A list may be this old: who asks within it shares one. */
const MAX_AGE_SECONDS = 1;
/** @type {Record<string, Partial<Column>>} */
const CHANGED = {
  // "client unreachable for 12.3s" is worth more than many other columns.
  state: { max_width: 28, wanted_width: 28 },
  // Where there is no room for much: the name of a device says more than its number.
  mqtt_client_id: { importance: 0.5 },
};

/**
 * @typedef {import("../types.js").Column} Column
 * @typedef {import("../types.js").Row} Row
 */

/**
 * Which side does not answer, and for how long; empty if both do.
 *
 * @param {Row} row
 */
function unreachableText(row) {
  const seconds = { client: row.client_unreachable_seconds, backend: row.backend_unreachable_seconds };
  const found = Object.entries(seconds).filter(([, each]) => each !== null && each !== undefined);
  if (row.state === "closed" || found.length === 0) {
    return "";
  }
  const who = found.length === 2 ? "both" : found[0]?.[0];
  return `${who} unreachable for ${formatDuration(Math.max(...found.map(([, each]) => each)))}`;
}

/**
 * The value of a cell of a connection.
 *
 * @param {Column} column
 * @param {Row} row
 */
function connectionValue(column, row) {
  if (column.name === "state") {
    return unreachableText(row) || (row.state === "open" && row.is_limited ? "limited" : row.state);
  }
  return cellValue(column, row);
}

const STATE_CLASSES = /** @type {Record<string, string>} */ ({
  connecting: "warn",
  half_closed: "info",
  closing: "violet",
  limited: "warn",
});

/**
 * @param {Column} column
 * @param {Row} row
 */
function connectionClass(column, row) {
  if (column.name === "state") {
    const state = String(connectionValue(column, row));
    return state.includes("unreachable") ? "bad" : (STATE_CLASSES[state] ?? "");
  }
  return "";
}

/** Where somebody was who comes back from one connection. @type {{filter: string, sort: string, place: ReturnType<Table["place"]>} | null} */
let left = null;

/** @type {import("../types.js").View} */
export default {
  title: "Connections",
  async mount(root, params, context) {
    const { columns: known, keys } = await context.columns("connections");
    const columns = known.map((column) => ({ ...column, ...CHANGED[column.name] }));
    let filter = params.filter ?? "";
    let sort = params.sort ?? "";
    /** Whether the last entry of the browser's history is one of somebody who types. */
    let isTyping = false;
    let total = 0;
    let isHeld = false;
    /** Which run of the server the rows are of. */
    let served = context.live.hello?.served ?? context.session.served;

    const table = new Table({
      label: "Connections",
      columns,
      chosen: chosenColumns("connections"),
      key: (row) => row.uid ?? row.id,
      sort,
      usualSort: "id",
      selectable: context.mayOperate,
      href: (row) => context.link(`connections/${encodeURIComponent(row.uid ?? row.id)}`),
      value: connectionValue,
      cellClass: connectionClass,
      empty: "No connection matches.",
      fetch: (offset, limit, order, signal) =>
        get("connections", { filter, sort: order, offset, limit, max_age: MAX_AGE_SECONDS }, { signal }),
      async fetchAgain(rows, signal) {
        const ids = rows.map((row) => `id:${row.id}`).join(" ");
        const page = await get("connections", { filter: ids, limit: rows.length, max_age: MAX_AGE_SECONDS }, { signal });
        return page.rows;
      },
      async rank(row, order, signal) {
        const isOldestFirst = order === "" || order === "id";
        if ((!isOldestFirst && order !== "-id") || /(^|\s)(not:)?id:/.test(filter)) {
          return undefined;
        }
        const before = isOldestFirst ? `id:..${row.id - 1}` : `id:${row.id + 1}..`;
        const page = await get(
          "connections",
          { filter: `${filter} ${before}`.trim(), limit: 1, max_age: MAX_AGE_SECONDS },
          { signal },
        );
        return page.total;
      },
      onSort(order) {
        sort = order;
        table.setSort(order);
        remember(true);
      },
      onPage(page) {
        field.setProblem(null);
        total = page.total ?? page.rows.length;
        if (isAsked) {
          isAsked = false;
          context.announce(filter === "" ? counted(total, "connection") : `${counted(total, "connection")} found`);
        }
        drawStatus();
      },
      onHold(held) {
        isHeld = held;
        drawStatus();
      },
      onSelect: () => drawSelection(),
    });
    /** Whether somebody has changed the filter, and is told how many there are. */
    let isAsked = true;
    /** Whether the server does not understand the filter: it is not asked again, then. */
    let isWrong = false;
    table.onError = (error) => {
      if (!(error instanceof Problem)) {
        throw error;
      }
      const wrong = error.errors.find((each) => each.name === "filter");
      if (wrong !== undefined) {
        isWrong = true;
        field.setProblem(wrong);
        drawStatus();
      } else if (error.errors.some((each) => each.name === "sort")) {
        sort = "";
        table.setSort("");
        remember(false);
      } else if (!error.isGone && error.status !== 401) {
        notifyProblem(error); // that the server is gone is said above
      }
    };

    const field = new FilterField({
      onLeave: () => table.focus(),
      label: "Filter of connections",
      keys,
      value: filter,
      values: { service: () => (context.live.tick?.services ?? []).map((service) => String(service.sid)) },
      onFilter(text, isDone) {
        if (text !== filter) {
          filter = text;
          isAsked = true;
          isWrong = false;
          remember(!isTyping);
          isTyping = true;
          table.reset();
        }
        if (isDone) {
          isTyping = false;
        }
      },
    });

    /**
     * Put filter and order into the address.
     *
     * @param {boolean} isNew Whether "back" leads to what was before.
     */
    function remember(isNew) {
      context.navigate("connections", { filter, sort }, { replace: !isNew });
      drawStatus();
    }

    const status = h("span", { class: "muted", id: "connections-status" });
    function drawStatus() {
      const all = context.live.tick?.connections;
      const found = formatCount(total);
      const text = filter === "" || all === undefined ? counted(total, "connection") : `${found} of ${counted(all, "connection")}`;
      setText(status, isWrong || !table.isKnown ? "" : isHeld ? `${text} · order held` : text);
      matching.hidden = filter === "" || isWrong;
    }

    const selectedText = h("span", null);
    const selection = h(
      "div",
      { class: "toolbar selection", role: "group", "aria-label": "Selected connections" },
      selectedText,
      h("button", { type: "button", class: "danger", onclick: () => closeSelected() }, "Close…"),
      h("button", { type: "button", class: "danger", onclick: () => blockSelected() }, "Block clients…"),
      h("button", { type: "button", class: "quiet", onclick: () => table.clearSelection() }, "Clear selection"),
    );
    function drawSelection() {
      const count = table.selected.size;
      selection.hidden = count === 0;
      setText(selectedText, `${formatCount(count)} selected`);
      if (count > 0) {
        context.announce(`${formatCount(count)} selected`);
      }
    }
    async function closeSelected() {
      if (await closeConnections([...table.selected.values()], served)) {
        table.clearSelection();
        table.refresh();
      }
    }
    async function blockSelected() {
      if (await blockClients([...table.selected.values()].map((row) => String(row.client_ip)))) {
        table.clearSelection();
        table.refresh();
      }
    }
    const matching = h(
      "button",
      {
        type: "button",
        class: "danger",
        onclick: async () => {
          if (await closeMatching(filter)) {
            table.refresh();
          }
        },
      },
      "Close matching…",
    );

    root.classList.add("fill");
    replace(
      root,
      h("h1", { class: "visually-hidden" }, "Connections"),
      h(
        "div",
        { class: "toolbar filter-bar" },
        field.element,
        status,
        h(
          "span",
          { class: "end toolbar" },
          context.mayOperate ? matching : null,
          h(
            "button",
            {
              type: "button",
              onclick: () => chooseColumns("connections", columns, (chosen) => table.setChosen(chosen)),
            },
            "Columns…",
          ),
        ),
      ),
      table.element,
      context.mayOperate ? selection : null, // below, so that nothing moves when it comes
    );
    drawStatus();
    drawSelection();
    if (left !== null && left.filter === filter && left.sort === sort) {
      table.restore(left.place);
    } else {
      table.reset();
    }

    const off = [
      context.live.on("tick", () => {
        if (!isWrong) {
          drawStatus();
          table.refresh();
        }
      }),
      context.live.on("hello", () => {
        // After a restart, numbers of connections mean others.
        const now = context.live.hello?.served;
        if (served !== now) {
          served = now;
          table.clearSelection();
          table.reset();
        }
      }),
    ];
    const onVisible = () => {
      if (!isWrong) {
        table.refresh();
      }
    };
    document.addEventListener("visibilitychange", onVisible);

    return {
      update(next) {
        const isOther = (next.filter ?? "") !== filter;
        filter = next.filter ?? "";
        if (isOther) {
          field.set(filter);
          isAsked = true;
          isWrong = false;
          drawStatus();
        }
        if ((next.sort ?? "") !== sort) {
          sort = next.sort ?? "";
          table.setSort(sort);
        } else if (isOther) {
          table.reset();
        }
      },
      unmount() {
        const isOpened = location.hash.startsWith(context.link("connections/"));
        left = isOpened ? { filter, sort, place: table.place() } : null;
        document.removeEventListener("visibilitychange", onVisible);
        for (const each of off) {
          each();
        }
        field.destroy();
        table.destroy();
      },
    };
  },
};
