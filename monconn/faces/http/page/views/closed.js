/** The connections that have closed lately, with their reasons, and the reasons over time. */
import { Problem, get } from "../api.js";
import { stackedBars } from "../charts/bars.js";
import { chooseColumns, chosenColumns } from "../table/choice.js";
import { BUCKET_SECONDS, REASON_SERIES, TickReasons } from "../connection/reasons.js";
import { notifyProblem } from "../dialogs.js";
import { h, replace, setText } from "../dom.js";
import { FilterField } from "../filter.js";
import { Table } from "../table/table.js";
import { formatCount } from "../units.js";

/**
 * @typedef {import("../types.js").Row} Row
 * @typedef {import("../types.js").Column} Column
 * @typedef {import("../types.js").FilterKey} FilterKey
 * @typedef {import("../types.js").Context} Context
 * @typedef {import("../types.js").Params} Params
 * @typedef {import("../charts/bars.js").Bucket} Bucket
 */

/** Periods of the history, as `since` takes them; the first is the time that this page has seen. */
const PERIODS = /** @type {const} */ ([
  ["", "last minutes, live"],
  ["1h", "last hour"],
  ["6h", "last 6 hours"],
  ["1d", "last day"],
  ["7d", "last 7 days"],
  ["30d", "last 30 days"],
]);
const BUCKETS = 60;
/** More than there are bars of ten seconds in ten minutes: the server takes round lengths. */
const SEED_BUCKETS = 65;
/** When the history surely has what has ended before now. */
const WRITTEN_MILLISECONDS = 3000;
/** How often a longer period is asked for again. */
const HISTORY_MILLISECONDS = 30_000;
/** All who look at the same bars share one query, which may take a second of a large file. */
const HISTORY_MAX_AGE_SECONDS = 15;

/** @type {import("../types.js").View} */
export default {
  title: "Closed",
  async mount(root, params, context) {
    const { columns, keys } = await context.columns("closed");
    const view = new ClosedView(root, params, context, withCloser(columns), keys);
    view.start();
    return { unmount: () => view.stop(), update: (changed) => view.changed(changed) };
  },
};

class ClosedView {
  /**
   * @param {HTMLElement} root
   * @param {Params} params
   * @param {Context} context
   * @param {Column[]} columns
   * @param {FilterKey[]} keys
   */
  constructor(root, params, context, columns, keys) {
    this.columns = columns;
    this.root = root;
    this.params = params;
    this.context = context;
    /** @type {(() => void)[]} */
    this.leaving = [];
    this.reasons = new TickReasons();
    this.askedAt = 0;
    this.historyNumber = 0;
    this.seedTimer = 0;
    /** @type {string | null} Of which service `before` is; empty for all. */
    this.seedOf = null;
    /** @type {Bucket[]} What the history has of the time before this page was opened. */
    this.before = [];
    this.table = new Table({
      label: "Connections that have closed",
      columns,
      chosen: chosenColumns("closed"),
      key: (row) => row.uid ?? row.id,
      sort: params.sort ?? "",
      usualSort: "closed_at",
      fetch: (offset, limit, sort, signal) =>
        get("connections", { closed: true, filter: this.params.filter, sort, offset, limit, max_age: 1 }, { signal }),
      href: (row) => context.link(`connections/${encodeURIComponent(row.uid ?? row.id)}`),
      onSort: (sort) => this.go({ sort }, false),
      onPage: (page) => this.counted(page.total ?? page.rows.length),
      cellClass: (column, row) => (column.name === "reason" ? reasonClass(row) : ""),
      cellText: (column, row) => (column.name === "reason" ? String(row.reason ?? row.refusal ?? "-") : undefined),
      empty: "No connection has closed that matches. Only the last ones are in memory.",
    });
    this.table.onError = (/** @type {unknown} */ error) => this.failed(error);
    this.chart = stackedBars({
      label: "Ends by reason",
      series: REASON_SERIES,
      onPick: (name, bucket) => this.picked(name, bucket),
      empty: "No connection has ended in this time.",
    });
    /** Whether the last entry of the browser's history is one of somebody who types. */
    this.isTyping = false;
    this.field = new FilterField({
      onLeave: () => this.table.focus(),
      label: "Filter of closed connections",
      keys,
      value: params.filter ?? "",
      placeholder: "reason:client_reset service:web",
      values: { service: () => (context.live.tick?.services ?? []).map((service) => String(service.sid)) },
      onFilter: (text, isDone) => {
        if (text !== (this.params.filter ?? "")) {
          this.go({ filter: text }, !this.isTyping);
          this.isTyping = true;
        }
        if (isDone) this.isTyping = false;
      },
    });
    this.count = h("span", { class: "muted" });
    this.period = h("select", { id: "closed-period" });
    this.about = h("p", { class: "muted chart-about", role: "status" });
    this.bar = h("p", { class: "chart-about" });
  }

  start() {
    const hasHistory = Boolean(this.context.session.has.history);
    replace(
      this.period,
      PERIODS.filter(([value]) => value === "" || hasHistory).map(([value, text]) => h("option", { value }, text)),
    );
    this.period.addEventListener("change", () => this.go({ period: this.period.value }));
    replace(
      this.root,
      h("h1", null, "Closed connections"),
      h(
        "section",
        { class: "card", "aria-labelledby": "reasons-title" },
        h(
          "div",
          { class: "toolbar" },
          h("h2", { id: "reasons-title" }, "Reasons over time"),
          h("label", { for: "closed-period", class: "visually-hidden" }, "Period"),
          h("span", { class: "end" }, this.period),
        ),
        this.chart.element,
        this.about,
        this.bar,
      ),
      h(
        "div",
        { class: "toolbar" },
        this.field.element,
        this.count,
        h(
          "button",
          { type: "button", class: "end", onclick: () => chooseColumns("closed", this.columns, (chosen) => this.table.setChosen(chosen)) },
          "Columns…",
        ),
      ),
      this.table.element,
    );
    for (const tick of this.context.live.ticks) this.reasons.add(tick);
    const off = this.context.live.on("tick", (tick) => {
      this.reasons.add(tick);
      this.refresh();
    });
    this.leaving.push(off);
    this.changed(this.params);
    this.table.reset();
  }

  stop() {
    for (const leave of this.leaving.splice(0)) leave();
    this.historyNumber += 1;
    clearTimeout(this.seedTimer);
    this.field.destroy();
    this.table.destroy();
    this.chart.remove();
  }

  /**
   * @param {Record<string, string>} changes Of the query.
   * @param {boolean} [isNew] Whether "back" leads to what was before.
   */
  go(changes, isNew = true) {
    const { filter, sort, period } = { ...this.params, ...changes };
    this.context.navigate("closed", { filter, sort, period }, { replace: !isNew });
  }

  /** @param {Params} params */
  changed(params) {
    const before = this.params;
    this.params = params;
    if ((params.filter ?? "") !== this.field.value) this.field.set(params.filter ?? "");
    this.period.value = params.period ?? "";
    this.askedAt = 0;
    if (before !== params) {
      replace(this.bar);
      if ((params.sort ?? "") !== this.table.sort) this.table.setSort(params.sort ?? "");
      else if ((params.filter ?? "") !== (before.filter ?? "")) this.table.reset();
    }
    this.drawChart();
  }

  refresh() {
    if (document.hidden) return;
    this.table.refresh();
    this.drawChart();
  }

  /** @param {number} total */
  counted(total) {
    this.field.setProblem(null);
    setText(this.count, `${formatCount(total)} ${this.params.filter ? "found" : "in memory"}`);
  }

  /** @param {unknown} error */
  failed(error) {
    if (!(error instanceof Problem)) throw error;
    const wrong = error.errors.find((each) => each.name === "filter");
    if (wrong !== undefined) this.field.setProblem(wrong);
    else if (error.errors.some((each) => each.name === "sort")) this.go({ sort: "" }, false);
    else if (!error.isGone && error.status !== 401) notifyProblem(error); // that it is gone is said above
  }

  // -- reasons over time

  drawChart() {
    const chosen = reasonOf(this.params.filter);
    if (this.params.period) {
      this.drawHistory(this.params.period, chosen);
      return;
    }
    const service = serviceOf(this.params.filter);
    if (this.context.session.has.history && this.seedOf !== (service ?? "")) this.seed(service ?? "");
    const { buckets, since, until } = this.reasons.buckets(service, this.before);
    this.chart.update({ buckets, since, until, chosen });
    const whose = service ? `of ${service}` : "of all services";
    const isNarrower = leftOver(this.params.filter);
    const note = isNarrower ? "; the rest of the filter holds for the table alone" : "";
    const from = this.before.length ? "in the last 10 minutes" : "since this page was opened, at most 10 minutes";
    setText(this.about, `Ends ${whose} ${from}${note}.`);
  }

  /**
   * What has ended before the first tick, as the history has it: asked for twice, as it is written
   * a little later.
   *
   * @param {string} service Empty for all.
   */
  async seed(service) {
    const until = this.reasons.firstAt;
    if (until === null) return;
    this.seedOf = service;
    this.before = [];
    clearTimeout(this.seedTimer);
    this.seedTimer = setTimeout(() => this.askSeed(service, until), WRITTEN_MILLISECONDS);
    await this.askSeed(service, until);
  }

  /**
   * @param {string} service
   * @param {number} until
   */
  async askSeed(service, until) {
    try {
      const answer = await get("history/reasons", { since: "10m", until, buckets: SEED_BUCKETS, service, max_age: 1 });
      if (this.seedOf !== service || Number(answer.bucket_seconds) > BUCKET_SECONDS) return;
      this.before = bucketsOf(answer);
      this.drawChart();
    } catch (error) {
      if (!(error instanceof Problem)) throw error; // then the bars begin with this page
    }
  }

  /**
   * @param {string} period
   * @param {string | null} chosen
   */
  async drawHistory(period, chosen) {
    if (Date.now() - this.askedAt < HISTORY_MILLISECONDS) return;
    this.askedAt = Date.now();
    this.historyNumber += 1;
    const number = this.historyNumber;
    // Of one reason alone the bars would say less: the others stay, faded.
    const filter = withoutReason(this.params.filter);
    /** @type {any} */
    let answer;
    try {
      answer = await get("history/reasons", { since: period, buckets: BUCKETS, filter, max_age: HISTORY_MAX_AGE_SECONDS });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (number === this.historyNumber && !error.isGone) setText(this.about, `The history does not say: ${error.detail || error.title}`);
      return;
    }
    if (number !== this.historyNumber) return;
    const buckets = bucketsOf(answer);
    this.chart.update({ buckets, since: buckets[0]?.since, until: buckets[buckets.length - 1]?.until, chosen });
    setText(this.about, "From the history.");
  }

  /**
   * @param {string | null} name
   * @param {Bucket | null} bucket
   */
  picked(name, bucket) {
    const rest = withoutReason(this.params.filter);
    if (bucket === null) {
      this.go({ filter: [rest, name === null ? "" : `reason:${name}`].filter(Boolean).join(" ") });
      return;
    }
    if (name !== null) this.go({ filter: [rest, `reason:${name}`].filter(Boolean).join(" ") });
    if (this.context.session.has.history) {
      const since = new Date(bucket.since * 1000).toISOString();
      const until = new Date(bucket.until * 1000).toISOString();
      const filter = [rest, name === null ? "" : `reason:${name}`].filter(Boolean).join(" ");
      replace(this.bar, h("a", { href: this.context.link("history", { filter, since, until }) }, "Show what this bar counts in the history"));
    }
  }
}

/**
 * @param {any} answer Of `history/reasons`.
 * @returns {Bucket[]}
 */
function bucketsOf(answer) {
  const seconds = Number(answer.bucket_seconds);
  return answer.buckets.map((/** @type {any} */ each) => {
    const since = new Date(each.at).getTime() / 1000;
    return { since, until: since + seconds, counts: each.reasons };
  });
}

/**
 * The columns as they are, but for who ended it, which stands beside the reason.
 *
 * @param {Column[]} columns
 */
function withCloser(columns) {
  const closer = columns.find((each) => each.name === "closed_by");
  if (closer === undefined) return columns;
  const usual = { ...closer, usual: true, importance: 4, width: 9 };
  return columns.flatMap((each) => (each === closer ? [] : each.name === "reason" ? [each, usual] : [each]));
}

/** @param {Row} row */
function reasonClass(row) {
  return row.refusal || (row.code && row.code !== "--" && !String(row.code).startsWith("K")) ? "bad" : "";
}

const REASON = /(^|\s)reason:([a-z_]+)(?=\s|$)/;
const SERVICE = /(^|\s)service:([\w.-]+)(?=\s|$)/;

/** @param {string | undefined} filter */
const reasonOf = (filter) => REASON.exec(filter ?? "")?.[2] ?? null;

/** @param {string | undefined} filter */
const serviceOf = (filter) => SERVICE.exec(filter ?? "")?.[2] ?? null;

/** @param {string | undefined} filter */
const withoutReason = (filter) => (filter ?? "").replace(REASON, " ").replace(/\s+/g, " ").trim();

/** @param {string | undefined} filter */
const leftOver = (filter) => withoutReason(filter).replace(SERVICE, " ").trim() !== "";
