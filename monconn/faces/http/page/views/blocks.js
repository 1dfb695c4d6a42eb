/** The blocked networks: who blocks them, until when, whom they have met; block and unblock. */
import { Problem, del, get, path, post } from "../api.js";
import { confirmAction, notify, notifyProblem } from "../dialogs.js";
import { h, replace } from "../dom.js";
import { FilterField } from "../filter.js";
import { problemOfFilter, serviceChoices, servicePicker, textField } from "../pickers.js";
import { PlainTable } from "../table/plain.js";
import { formatCount, formatDuration, formatTime } from "../units.js";

/**
 * @typedef {import("../types.js").Context} Context
 * @typedef {import("../types.js").Params} Params
 * @typedef {import("../types.js").Row} Row
 */

const REFRESH_SECONDS = 3;
const MOST_ROWS = 1000;

/** @type {[string, string][]} Seconds and their words. */
const TIMES = [
  ["600", "for 10 minutes"],
  ["3600", "for 1 hour"],
  ["86400", "for 1 day"],
  ["604800", "for 1 week"],
  ["", "until it is unblocked"],
];

export default { title: "Blocks", mount };

/**
 * @param {HTMLElement} root
 * @param {Params} params
 * @param {Context} context
 */
async function mount(root, params, context) {
  const { columns, keys } = await context.columns("blocks");
  let left = 0;
  let number = 0;
  const more = h("p", { class: "warn" });
  const filter = new FilterField({
    onLeave: () => table.focus(),
    label: "Filter of blocks",
    keys,
    value: params.filter ?? "",
    values: { service: () => serviceChoices(context) },
    placeholder: "client:10.0.0.0/8 source:operator",
    onFilter: (text) => go({ filter: text }),
  });
  const service = servicePicker(context, { value: params.service ?? "", onChange: (value) => go({ service: value }) });
  const table = new PlainTable({
    label: "Blocked networks",
    columns,
    key: (row) => `${row.network} ${row.service ?? ""} ${row.source}`,
    sort: params.sort ?? "",
    onSort: (sort) => go({ sort }),
    cell: (column, row) => cell(column.name, row),
    actions: context.mayOperate ? (row) => [unblockButton(row)] : undefined,
    empty: "Nothing is blocked.",
  });
  replace(
    root,
    h("div", { class: "view-head" }, h("h1", null, "Blocked networks")),
    context.mayOperate ? form() : h("p", { class: "hint" }, "To block and unblock, the role operate is needed."),
    h("div", { class: "toolbar" }, filter.element, service.element),
    more,
    table.element,
  );

  /** @param {Params} changed */
  function go(changed) {
    context.navigate("blocks", { filter: params.filter, service: params.service, sort: params.sort, ...changed }, { replace: true });
  }

  /**
   * @param {string} name
   * @param {Row} row
   */
  function cell(name, row) {
    switch (name) {
      case "network":
        return h("a", { href: context.link("why", { client: oneOf(row.network), service: row.service ?? "" }), title: "Why, and at which service" }, row.network);
      case "service":
        return row.service ?? "all";
      case "left_seconds":
        return row.left_seconds === null ? "no end" : formatDuration(row.left_seconds);
      case "hits":
        return formatCount(row.hits);
      default:
        return undefined;
    }
  }

  function form() {
    const network = textField({
      label: "Block",
      value: params.network ?? "",
      placeholder: "10.0.0.7 or 10.0.0.0/24",
      help: "An IP or a network.",
      onChange: () => {},
    });
    const where = servicePicker(context, { value: params.service ?? "", onChange: () => {}, all: "at all services" });
    const time = h("select", { id: "block-time" }, ...TIMES.map(([value, text]) => h("option", { value }, text)));
    const reason = textField({ label: "Reason", value: "", placeholder: "for the log and for others", onChange: () => {} });
    const keepOpen = h("input", { type: "checkbox", id: "block-keep-open" });
    time.value = "3600";
    const submit = async (/** @type {Event} */ event) => {
      event.preventDefault();
      const text = network.input.value.trim();
      if (text === "") {
        network.setProblem("Say which IP or network.");
        network.input.focus();
        return;
      }
      network.setProblem("");
      try {
        const isDone = await block({
          network: text,
          service: where.select.value || undefined,
          for_seconds: time.value === "" ? undefined : Number(time.value),
          reason: reason.input.value.trim() || undefined,
          keep_open: keepOpen.checked,
        });
        if (isDone) {
          network.input.value = reason.input.value = "";
          refresh();
        }
      } catch (error) {
        if (!(error instanceof Problem)) {
          throw error;
        }
        network.setProblem(error.message);
        network.input.focus();
      }
    };
    return h(
      "form",
      { class: "toolbar card", onsubmit: submit, "aria-label": "Block a network" },
      network.element,
      where.element,
      h("div", { class: "picker" }, h("label", { for: time.id }, "How long"), time),
      reason.element,
      h("label", { class: "check" }, keepOpen, " leave live connections open"),
      h("button", { type: "submit", class: "danger" }, "Block…"),
    );
  }

  /** @param {Row} row */
  function unblockButton(row) {
    const click = () => unblock(row).then(refresh, notifyProblem);
    return h("button", { type: "button", class: "small", "aria-label": `Unblock ${row.network}`, onclick: click }, "Unblock…");
  }

  async function refresh() {
    const mine = (number += 1);
    try {
      const { rows } = await get("blocks", { filter: params.filter, service: params.service, limit: MOST_ROWS, max_age: 1 });
      if (mine === number) {
        filter.setProblem(null);
        table.setRows(rows);
        replace(more, rows.length < MOST_ROWS ? null : `Only ${formatCount(MOST_ROWS)} are shown: a filter finds others.`);
      }
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      if (mine === number && !error.isGone) {
        filter.setProblem(problemOfFilter(error) ?? { detail: error.message });
      }
    }
  }

  /** @param {Params} wanted */
  function update(wanted) {
    params = wanted;
    if (filter.value !== (params.filter ?? "")) {
      filter.set(params.filter ?? "");
    }
    service.update(params.service ?? "");
    table.setSort(params.sort ?? "");
    refresh();
  }

  refresh();
  const off = context.live.on("tick", () => {
    left -= 1;
    if (left <= 0 && document.visibilityState === "visible") {
      left = REFRESH_SECONDS;
      refresh();
    }
  });
  return {
    unmount() {
      off();
      number += 1;
      filter.destroy();
      table.destroy();
    },
    update,
  };
}

/**
 * An address of a network, to ask for.
 *
 * @param {string} network
 */
function oneOf(network) {
  return network.replace(/\/\d+$/, "");
}

/**
 * Block a network, once it is said what that does.
 *
 * @param {{network: string, service?: string, for_seconds?: number, reason?: string,
 *   keep_open?: boolean}} wanted
 * @returns {Promise<boolean>} Whether it is blocked now.
 * @throws {Problem}
 */
export async function block(wanted) {
  const check = await post("blocks", { ...wanted, dry_run: true });
  const where = wanted.service ? `at ${wanted.service}` : "at all services";
  const until = wanted.for_seconds ? `for ${formatDuration(wanted.for_seconds)}` : "until somebody unblocks it";
  const count = Number(check.closed);
  const ended = wanted.keep_open
    ? "Live connections of its clients are left open."
    : count === 0
      ? "None of its clients is connected now."
      : `${formatCount(count)} live connection${count === 1 ? "" : "s"} will be ended.`;
  const text = [
    h("p", null, `New clients of ${wanted.network} are refused ${where}, ${until}.`),
    h("p", { class: count > 0 && !wanted.keep_open ? "warn" : "" }, ended),
    check.updated ? h("p", null, "It is blocked already: its end and its reason change.") : null,
    check.kept === false ? h("p", null, "It ends with this run of monconn: blocks are not stored here.") : null,
  ];
  const isWanted = await confirmAction({ title: `Block ${wanted.network}?`, text, label: "Block", danger: true });
  if (!isWanted) {
    return false;
  }
  const done = await post("blocks", wanted);
  notify(`${wanted.network} is blocked ${where}: ${formatCount(done.closed)} connection${done.closed === 1 ? "" : "s"} ended.`, "good");
  return true;
}

/**
 * @param {Row} row
 * @throws {Problem}
 */
async function unblock(row) {
  const where = row.service ? `at ${row.service}` : "at all services";
  const by = row.source === "operator" ? `${row.by ?? "an operator"} has blocked it` : `it is blocked by: ${row.source}`;
  const since = row.since_at ? ` since ${formatTime(row.since_at)}` : "";
  const text = [
    h("p", null, `Clients of ${row.network} may enter again ${where}, as far as other rules let them.`),
    h("p", { class: "muted" }, `${by[0]?.toUpperCase()}${by.slice(1)}${since}${row.origin ? ` (${row.origin})` : ""}.`),
  ];
  if (!(await confirmAction({ title: `Unblock ${row.network}?`, text, label: "Unblock" }))) {
    return;
  }
  const done = await del(path("blocks", row.network), { service: row.service ?? undefined });
  if (done.still_blocked_by) {
    notify(`${row.network} is unblocked, but ${done.still_blocked_by} goes on blocking it.`, "warning");
  } else {
    notify(done.changed ? `${row.network} is unblocked ${where}.` : `${row.network} was not blocked ${where} any more.`, "good");
  }
}
