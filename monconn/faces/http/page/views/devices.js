/** The devices: how often each sends, its alarms, and when it was there. */
import { Problem, get } from "../api.js";
import { strip } from "../charts/strip.js";
import { h, replace } from "../dom.js";
import { FilterField } from "../filter.js";
import { notConfigured, periodPicker, problemOfFilter, serviceChoices, servicePicker, usualPeriod } from "../pickers.js";
import { PlainTable } from "../table/plain.js";
import { getPresence, keyOf, stripOf } from "../presence.js";
import { formatCount } from "../units.js";

/**
 * @typedef {import("../types.js").Column} Column
 * @typedef {import("../types.js").Context} Context
 * @typedef {import("../types.js").Params} Params
 * @typedef {import("../types.js").Row} Row
 */

const USUAL = "1h";
/** By name: the order of the server, by when they were seen last, is another one each time. */
const SORT = "device";
const REFRESH_SECONDS = 3;
/** How often so many are asked for again: some hundred kilobytes each time. */
const SELDOM_SECONDS = 8;
const MANY_ROWS = 200;
/** Strips are asked for again after a part of their period, as they are no finer. */
const LEAST_STRIP_SECONDS = 10;
const STRIP_PARTS = 300;
const MOST_ROWS = 1000;

/** @type {Column} */
const PRESENCE = { name: "presence", title: "PRESENCE", unit: "object", help: "When it was connected, and its alarms.", importance: 0, width: 12, usual: true };

export default { title: "Devices", mount };

/**
 * @param {HTMLElement} root
 * @param {Params} params
 * @param {Context} context
 */
async function mount(root, params, context) {
  if (context.session.has.devices === false) {
    replace(root, noDevices());
    return () => {};
  }
  const { columns, keys } = await context.columns("devices");
  const view = new DevicesView(root, columns, keys, params, context);
  view.load();
  return { unmount: () => view.unmount(), update: (/** @type {Params} */ wanted) => view.update(wanted) };
}

class DevicesView {
  /**
   * @param {HTMLElement} root
   * @param {Column[]} columns
   * @param {import("../types.js").FilterKey[]} keys
   * @param {Params} params
   * @param {Context} context
   */
  constructor(root, columns, keys, params, context) {
    this.params = params;
    this.context = context;
    this.alarmKinds = keys.find((each) => each.name === "alarm")?.choices ?? [];
    this.number = 0;
    this.left = REFRESH_SECONDS;
    this.stripsLeft = 0;
    /** @type {Row[]} */
    this.inView = [];
    this.askedFor = "";
    /** @type {import("../presence.js").Presence | null} */
    this.presence = null;
    /** @type {Map<string, import("../charts/chart.js").Chart<any>>} */
    this.strips = new Map();
    this.isAsking = false;
    this.service = servicePicker(context, { value: params.service ?? "", onChange: (service) => this.go({ service }) });
    this.period = periodPicker({ period: this.wanted(), onChange: (wanted) => this.go({ ...wanted }) });
    this.filter = new FilterField({
      onLeave: () => this.table.focus(),
      label: "Filter of devices",
      keys,
      value: params.filter ?? "",
      values: { service: () => serviceChoices(context) },
      placeholder: "alarm:silent silent:1m..",
      onFilter: (filter) => this.go({ filter }),
    });
    this.alarms = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.toggleAlarms() }, "With an alarm");
    this.count = h("span", { class: "muted", "aria-live": "polite" });
    this.problem = h("p", { class: "warn", role: "status" });
    const [first, ...others] = columns.map((column) => (column.name === "alarms" ? { ...column, importance: 1 } : column));
    /** @type {PlainTable} */
    this.table = new PlainTable({
      label: "Devices",
      columns: first === undefined ? [PRESENCE] : [withName(first), PRESENCE, ...others.filter((each) => each.name !== "presence")],
      key: (row) => keyOf(/** @type {any} */ (row)),
      sort: params.sort ?? SORT,
      onSort: (sort) => this.go({ sort }),
      cell: (column, row) => this.cell(column, row),
      rowClass: (row) => (row.alarms.length > 0 ? "has-alarm" : ""),
      onView: (rows) => this.seen(rows),
      empty: "No device matches, or none was seen yet.",
    });
    replace(
      root,
      h("div", { class: "view-head" }, h("h1", null, "Devices"), this.count),
      h("div", { class: "toolbar" }, this.filter.element, this.alarms, this.service.element, this.period.element),
      this.problem,
      stripKey(),
      this.table.element,
    );
    this.off = context.live.on("tick", () => this.tick());
    this.offAlarm = context.live.on("alarm", () => {
      this.left = Math.min(this.left, 1);
    });
  }

  /** The period; unless one is chosen, one of which something is known. */
  wanted() {
    return { since: this.params.since ?? usualPeriod(this.context, USUAL), until: this.params.until ?? "" };
  }

  /** @param {Params} changed */
  go(changed) {
    const { filter, service, since, until, sort } = this.params;
    this.context.navigate("devices", { filter, service, since, until, sort, ...changed }, { replace: true });
  }

  /** Show those with an alarm only, or all again. */
  toggleAlarms() {
    const terms = (this.params.filter ?? "").split(/\s+/).filter((each) => each !== "");
    const others = terms.filter((each) => !each.startsWith("alarm:"));
    // The same key several times: one of these.
    const wanted = others.length < terms.length ? others : [...terms, ...this.alarmKinds.map((each) => `alarm:${each}`)];
    this.go({ filter: wanted.join(" ") });
  }

  /** @param {Params} params */
  update(params) {
    const isOther = params.since !== this.params.since || params.until !== this.params.until || params.service !== this.params.service;
    this.params = params;
    this.period.update(this.wanted());
    this.service.update(params.service ?? "");
    if (this.filter.value !== (params.filter ?? "")) {
      this.filter.set(params.filter ?? "");
    }
    this.table.setSort(params.sort ?? SORT);
    if (isOther) {
      this.askedFor = "";
      this.presence = null;
    }
    this.load();
  }

  tick() {
    if (document.hidden) {
      return;
    }
    this.left -= 1;
    this.stripsLeft -= 1;
    if (this.left <= 0) {
      this.left = REFRESH_SECONDS;
      this.load();
    }
    if (this.stripsLeft <= 0) {
      this.askedFor = "";
      this.askPresence();
    }
  }

  async load() {
    const mine = (this.number += 1);
    const { filter, service } = this.params;
    this.alarms.setAttribute("aria-pressed", String(/(^|\s)alarm:/.test(filter ?? "")));
    try {
      // No more than one answer, which all who look share.
      const { rows } = /** @type {{rows: Row[]}} */ (await get("devices", { filter, service, limit: MOST_ROWS, max_age: 2 }));
      if (mine === this.number) {
        this.filter.setProblem(null);
        this.table.setRows(rows);
        this.left = rows.length < MANY_ROWS ? REFRESH_SECONDS : SELDOM_SECONDS;
        const alarmed = rows.filter((row) => row.alarms.length > 0).length;
        const away = rows.filter((row) => row.connections === 0).length;
        const text = `${formatCount(rows.length)} device${rows.length === 1 ? "" : "s"}, ${formatCount(away)} away, ${formatCount(alarmed)} with an alarm`;
        replace(this.count, rows.length < MOST_ROWS ? text : `The ${text}: those that were seen last. A filter finds others.`);
        this.forgetStrips(rows);
      }
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      if (mine === this.number && !error.isGone) {
        this.filter.setProblem(problemOfFilter(error) ?? { detail: error.message });
      }
    }
  }

  /** @param {Row[]} rows */
  forgetStrips(rows) {
    if (this.strips.size > 2 * rows.length + 100) {
      const known = new Set(rows.map((row) => keyOf(/** @type {any} */ (row))));
      for (const [key, chart] of this.strips) {
        if (!known.has(key)) {
          chart.remove();
          this.strips.delete(key);
        }
      }
    }
  }

  /** @param {Row[]} rows */
  seen(rows) {
    this.inView = rows;
    this.askPresence();
  }

  async askPresence() {
    const names = [...new Set(this.inView.map((row) => String(row.device)))].sort();
    const wanted = names.join("\n");
    if (names.length === 0 || this.isAsking || wanted === this.askedFor) {
      return;
    }
    this.isAsking = true;
    this.askedFor = wanted;
    const { params } = this;
    try {
      const found = await getPresence(names, this.wanted(), params.service);
      if (params === this.params) {
        const rows = new Map([...(this.presence?.rows ?? []), ...found.rows]);
        this.presence = { ...found, rows };
        this.stripsLeft = Math.max(LEAST_STRIP_SECONDS, Math.ceil((found.until - found.since) / STRIP_PARTS));
        replace(this.problem, found.problem === "" ? null : `The history was not asked: ${found.problem}.`);
        this.drawStrips(names);
      }
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      this.stripsLeft = LEAST_STRIP_SECONDS;
      if (!error.isGone) {
        replace(this.problem, error.message);
      }
    } finally {
      this.isAsking = false;
    }
    this.askPresence(); // for those that have come into view meanwhile
  }

  /** @param {string[]} names Of those that were asked for now. */
  drawStrips(names) {
    if (this.presence === null) {
      return;
    }
    const { since, until, rows } = this.presence;
    const asked = new Set(names);
    for (const row of this.inView) {
      if (asked.has(row.device)) {
        const key = keyOf(/** @type {any} */ (row));
        this.strip(row).update({ since, until, ...stripOf(rows.get(key), since, until) });
      }
    }
  }

  /** @param {Row} row */
  strip(row) {
    const key = keyOf(/** @type {any} */ (row));
    let chart = this.strips.get(key);
    if (chart === undefined) {
      chart = strip({ label: String(row.name ?? row.device) });
      this.strips.set(key, chart);
    }
    return chart;
  }

  /**
   * @param {Column} column
   * @param {Row} row
   */
  cell(column, row) {
    switch (column.name) {
      case "presence":
        return this.strip(row).element;
      case "device": {
        const { service, since, until } = this.params;
        const href = this.context.link(`devices/${encodeURIComponent(row.device)}`, { service, since, until });
        const name = String(row.name ?? row.device);
        const address = row.addresses?.[0] ?? row.device;
        const link = h("a", { href, title: address === name ? null : address }, name);
        // Where there is no room for the column of alarms, they stand here.
        const hasRoom = this.table.shown.some((each) => each.name === "alarms");
        return hasRoom || row.alarms.length === 0 ? link : h("span", { class: "name-with-alarms" }, link, alarmTags(row.alarms));
      }
      case "connections":
        return row.connections === 0 ? "away" : formatCount(row.connections);
      case "alarms":
        return row.alarms.length === 0 ? "-" : alarmTags(row.alarms);
      default:
        return undefined;
    }
  }

  unmount() {
    this.number += 1;
    this.off();
    this.offAlarm();
    this.filter.destroy();
    this.table.destroy();
    for (const chart of this.strips.values()) {
      chart.remove();
    }
  }
}

/** @param {Column} column The first one, which is the device's name whatever it is called. */
function withName(column) {
  return { ...column, name: "device", width: Math.max(column.width ?? 0, 16) };
}

/** @param {string[]} alarms */
export function alarmTags(alarms) {
  return h("span", { class: "alarm-tags" }, ...alarms.map((each) => h("span", { class: "alarm-tag" }, `▲ ${each}`)));
}

/** What the parts of a strip mean. */
export function stripKey() {
  const entry = (/** @type {string} */ name, /** @type {string} */ text) => h("span", null, h("i", { class: `key-${name}`, "aria-hidden": true }), text);
  return h(
    "p",
    { class: "strip-key" },
    entry("present", "connected"),
    entry("silent", "connected, but silent"),
    entry("absent", "away"),
    entry("unknown", "not known"),
    entry("alarm", "an alarm begins"),
  );
}

/** What is said where devices are not watched. */
export function noDevices() {
  return notConfigured("Devices", "monconn watches no devices here, so it knows no rhythm of theirs, and raises no alarms.", "devices: {}");
}
