/** A period in figures: how much, why connections ended, who was there, when it was busy. */
import { Problem, get } from "../api.js";
import { stackedBars } from "../charts/bars.js";
import { h, replace, setAttribute } from "../dom.js";
import { momentOf, notConfigured, periodPicker, servicePicker, textField, whenBack } from "../pickers.js";
import { asDate, formatBytes, formatCount, formatDuration, formatTime } from "../units.js";
import { meaningOf } from "../words.js";

/**
 * @typedef {import("../types.js").Context} Context
 * @typedef {import("../types.js").Params} Params
 * @typedef {import("../types.js").Row} Row
 */

const USUAL = "24h";
const HOUR_SECONDS = 3600;

export default { title: "Report", mount };

/**
 * @param {HTMLElement} root
 * @param {Params} params
 * @param {Context} context
 */
function mount(root, params, context) {
  if (context.session.has.history === false) {
    replace(root, noHistory("Report"));
    return () => {};
  }
  let number = 0;
  /** @type {(() => void)[]} Ends the charts that are shown. */
  let charts = [];
  const back = whenBack(context, () => show());
  const period = periodPicker({ period: periodOf(params), onChange: (wanted) => go({ ...wanted }) });
  const service = servicePicker(context, { value: params.service ?? "", onChange: (value) => go({ service: value }) });
  const client = textField({
    label: "Client",
    value: params.client ?? "",
    placeholder: "all, or 10.0.0.0/8",
    help: "Only connections of this IP or network.",
    onChange: (value) => go({ client: value }),
  });
  const answer = h("div", { class: "report", "aria-live": "polite" });
  replace(root, h("h1", null, "Report"), h("div", { class: "toolbar" }, period.element, service.element, client.element), answer);

  /** @param {Params} changed */
  function go(changed) {
    const { since, until, service: name, client: network } = params;
    context.navigate("report", { since, until, service: name, client: network, ...changed });
  }

  async function show() {
    const mine = (number += 1);
    client.setProblem("");
    answer.setAttribute("aria-busy", "true");
    const wanted = periodOf(params);
    const which = { service: params.service, client: params.client };
    // Both with fixed times, so that the second ends where the first begins.
    const now = context.live.now();
    const until = wanted.until === "" ? now : momentOf(wanted.until, now);
    const since = momentOf(wanted.since, now);
    const isPeriod = Number.isFinite(since) && Number.isFinite(until); // else the server says what is wrong
    try {
      const report = await get("report", { ...which, ...(isPeriod ? { since, until } : wanted), max_age: 1 });
      if (mine !== number) {
        return;
      }
      draw(report, null);
      const before = await get("report", { ...which, since: since - (until - since), until: since, max_age: 1 });
      if (mine === number) {
        draw(report, before);
      }
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      back.missed(error);
      if (mine === number) {
        const isOfClient = error.errors.some((each) => each.name === "client");
        client.setProblem(isOfClient ? error.message : "");
        replace(answer, isOfClient ? null : h("p", { class: "error", role: "alert" }, error.message));
      }
    } finally {
      answer.removeAttribute("aria-busy");
    }
  }

  /**
   * @param {Row} report
   * @param {Row | null} before The same of the period before; null if it is not known.
   */
  function draw(report, before) {
    endCharts();
    // What is not stored, or not any more, can be compared with nothing.
    const isStored = before !== null && before.kept_since === null && before.resolution === report.resolution;
    const past = isStored && before.connections + before.refused > 0 ? before : null;
    const notes = [
      report.resolution === "exact" ? "" : "Single connections of this time are deleted: these are the sums of whole hours.",
      report.kept_since === null ? "" : `Nothing is stored of the time before ${formatTime(report.kept_since, { dated: true })}.`,
      report.lost > 0 ? `${formatCount(report.lost)} items are not in it: more than could be written.` : "",
      before !== null && !isStored ? "Of the period before, not everything is stored: it is not compared." : "",
    ];
    replace(
      answer,
      h(
        "p",
        { class: "muted" },
        `${formatTime(report.since, { dated: true })} to ${formatTime(report.until, { dated: true })}`,
        past !== null
          ? `, compared with the ${formatDuration(secondsOf(report))} before`
          : isStored
            ? "; of the period before, nothing is stored"
            : "",
      ),
      ...notes.filter((each) => each !== "").map((each) => h("p", { class: "warn" }, each)),
      h(
        "dl",
        { class: "report-figures" },
        ...figure("Connections", report.connections, past?.connections, formatCount),
        ...figure("Refused", report.refused, past?.refused, formatCount),
        ...figure("Up", report.up, past?.up, formatBytes),
        ...figure("Down", report.down, past?.down, formatBytes),
        ...spread("Lasted", report.duration_seconds, past?.duration_seconds),
        ...spread("Connected in", report.connect_seconds, past?.connect_seconds),
      ),
      hours(report),
      h(
        "div",
        { class: "cards" },
        bars("Why connections ended", entries(report.reasons, past?.reasons), formatCount, (name) =>
          context.link("history", { ...historyParams(), reason: name }),
        ),
        bars("Why clients were refused", entries(report.refusals, past?.refusals), formatCount, (name) =>
          context.link("history", { ...historyParams(), kind: "events", reason: name }),
        ),
        bars("Alarms", entries(report.alarms, past?.alarms), formatCount, (name) =>
          context.link("history", { ...historyParams(), kind: "events", reason: name }),
        ),
        bars("Clients with most connections", clients(report.clients_by_connections, (each) => each.connections), formatCount, ofClient),
        bars("Clients with most bytes", clients(report.clients_by_bytes, (each) => each.up + each.down), formatBytes, ofClient),
        busiest(report),
      ),
    );
  }

  function historyParams() {
    return { since: params.since, until: params.until, service: params.service, client: params.client };
  }

  /** @param {string} name */
  function ofClient(name) {
    return context.link("report", { since: params.since, until: params.until, service: params.service, client: name });
  }

  /** @param {Row} report */
  function hours(report) {
    const points = /** @type {Row[]} */ (report.hours);
    if (points.length < 2) {
      return null; // one bar says nothing that the figures do not
    }
    const each = report.hours_each * HOUR_SECONDS;
    const text = report.hours_each === 1 ? "Connections each hour" : `Connections each ${report.hours_each} hours`;
    const series = new Map([["connections", { label: "connections", colour: 1 }]]);
    const chart = stackedBars({ label: text, series, height: 160 });
    chart.update({
      since: seconds(points[0]?.at),
      until: seconds(points.at(-1)?.at) + each,
      buckets: points.map((point) => ({
        since: seconds(point.at),
        until: seconds(point.at) + each,
        counts: { connections: point.connections },
      })),
    });
    charts.push(chart.remove);
    return h("section", { class: "card" }, h("h2", null, text), chart.element);
  }

  /** @param {Row} report */
  function busiest(report) {
    const found = /** @type {Row[]} */ (report.busiest);
    if (found.length === 0) {
      return null;
    }
    return h(
      "section",
      { class: "card" },
      h("h2", null, "Busiest hours"),
      h(
        "ol",
        { class: "amounts" },
        ...found.map((each) =>
          h(
            "li",
            null,
            h(
              "a",
              {
                href: context.link("history", {
                  ...historyParams(),
                  since: asDate(each.at).toISOString(),
                  until: new Date(asDate(each.at).getTime() + HOUR_SECONDS * 1000).toISOString(),
                }),
              },
              formatTime(each.at, { dated: true }),
            ),
            h("span", { class: "amount" }, `${formatCount(each.connections)}, ${formatBytes(each.up + each.down)}`),
          ),
        ),
      ),
    );
  }

  function endCharts() {
    charts.forEach((end) => end());
    charts = [];
  }

  /** @param {Params} wanted */
  function update(wanted) {
    params = wanted;
    period.update(periodOf(params));
    service.update(params.service ?? "");
    client.update(params.client ?? "");
    show();
  }

  show();
  return {
    unmount() {
      number += 1;
      back.off();
      endCharts();
    },
    update,
  };
}

/** @param {Params} params */
function periodOf(params) {
  return { since: params.since ?? USUAL, until: params.until ?? "" };
}

/** @param {unknown} iso */
function seconds(iso) {
  return asDate(/** @type {string} */ (iso)).getTime() / 1000;
}

/** @param {Row} report */
function secondsOf(report) {
  return seconds(report.until) - seconds(report.since);
}

/**
 * @param {string} name
 * @param {number} value
 * @param {number | undefined} before
 * @param {(value: number) => string} format
 */
function figure(name, value, before, format) {
  return [h("dt", null, name), h("dd", null, h("strong", null, format(value)), before === undefined ? null : change(value, before, format))];
}

/**
 * How a figure differs from that of the period before, in words.
 *
 * @param {number} value
 * @param {number} before
 * @param {(value: number) => string} format
 */
function change(value, before, format) {
  if (value === before) {
    return h("span", { class: "change" }, "as before");
  }
  const sign = value > before ? "▲" : "▼";
  const word = value > before ? "more" : "less";
  const share = before === 0 ? "" : ` ${formatCount(Math.round((100 * Math.abs(value - before)) / before))} %`;
  return h("span", { class: "change", title: `before: ${format(before)}` }, `${sign}${share} ${word} than ${format(before)}`);
}

/**
 * @param {string} name
 * @param {Record<string, number> | null} values
 * @param {Record<string, number> | null | undefined} before
 */
function spread(name, values, before) {
  if (values === null) {
    return [];
  }
  const texts = Object.entries(values).map(([which, value]) => `${which} ${formatDuration(value)}`);
  const [first = ""] = Object.keys(values);
  const past = before?.[first];
  return [
    h("dt", null, name),
    h(
      "dd",
      null,
      h("strong", null, texts[0]),
      h("span", { class: "change" }, [...texts.slice(1), past === undefined ? "" : `before: ${first} ${formatDuration(past)}`].filter((each) => each !== "").join(", ")),
    ),
  ];
}

/**
 * @typedef {object} Bar
 * @property {string} name
 * @property {number} value
 * @property {number} [before] Undefined if that is not known.
 */

/**
 * @param {Record<string, number>} counts
 * @param {Record<string, number> | undefined} before
 * @returns {Bar[]}
 */
function entries(counts, before) {
  const names = new Set([...Object.keys(counts), ...Object.keys(before ?? {})]);
  return [...names].map((name) => ({ name, value: counts[name] ?? 0, before: before && (before[name] ?? 0) }));
}

/**
 * @param {Row[]} found
 * @param {(row: Row) => number} amount
 * @returns {Bar[]}
 */
function clients(found, amount) {
  return found.map((each) => ({ name: String(each.client_ip), value: amount(each) })).filter((each) => each.value > 0);
}

/**
 * A link with what its word means, if it is one.
 *
 * @param {HTMLElement} link
 * @param {string} word
 */
function explained(link, word) {
  if (/^[a-z_]+$/.test(word)) {
    meaningOf(word).then((text) => setAttribute(link, "title", text || null));
  }
  return link;
}

/**
 * Amounts by name as bars; nothing if there are none.
 *
 * @param {string} title
 * @param {Bar[]} rows
 * @param {(value: number) => string} format
 * @param {(name: string) => string} href
 */
function bars(title, rows, format, href) {
  if (rows.length === 0) {
    return null;
  }
  const most = Math.max(...rows.map((each) => each.value), 1);
  return h(
    "section",
    { class: "card" },
    h("h2", null, title),
    h(
      "ul",
      { class: "amounts" },
      ...rows.map(({ name, value, before }) =>
        h(
          "li",
          null,
          explained(h("a", { href: href(name) }, name), name),
          h(
            "span",
            { class: "amount" },
            format(value),
            before === undefined || before === value ? "" : h("span", { class: "muted" }, ` (before ${format(before)})`),
          ),
          h("span", { class: "amount-bar", "aria-hidden": true, style: { "--share": value / most } }),
        ),
      ),
    ),
  );
}

/**
 * What is said where no history is stored.
 *
 * @param {string} title
 */
export function noHistory(title) {
  return notConfigured(title, "monconn stores no history here, so it knows only what is live and what ended lately.", "history:\n  path: /var/lib/monconn/history.db");
}
