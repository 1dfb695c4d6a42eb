/**
 * Choosing what a view is about: a period, a service, a filter. What is chosen stands in the
 * address, so that a link shows the same to somebody else.
 */
import { get } from "./api.js";
import { h, keyed, setAttribute, setText } from "./dom.js";
import { asDate } from "./units.js";

/**
 * @typedef {import("./types.js").Context} Context
 *
 * @typedef {object} Period As the API takes it: `1h` (ago), ISO 8601, or empty.
 * @property {string} since
 * @property {string} until
 */

/** @type {[string, string][]} What is chosen, and its words. */
export const PERIODS = [
  ["15m", "last 15 minutes"],
  ["1h", "last hour"],
  ["6h", "last 6 hours"],
  ["24h", "last 24 hours"],
  ["7d", "last 7 days"],
  ["30d", "last 30 days"],
];

const SECONDS = /** @type {Record<string, number>} */ ({ s: 1, m: 60, h: 3600, d: 86_400 });
/** After its start, monconn knows little of a longer period. */
const FIRST_SECONDS = 2700;
let made = 0; // ids of inputs must be unique in the document

/**
 * When a period begins, or ends, in seconds of the wall clock.
 *
 * @param {string} text As in an address.
 * @param {number} now
 * @returns {number} NaN if it is no time.
 */
export function momentOf(text, now) {
  const ago = /^(\d+(?:\.\d+)?)([smhd])$/.exec(text);
  if (ago !== null) {
    return now - Number(ago[1]) * (SECONDS[ago[2] ?? ""] ?? NaN);
  }
  // A number is seconds; what no date can be is NaN also then.
  return asDate(/^\d+(\.\d+)?$/.test(text) ? Number(text) : text).getTime() / 1000;
}

/**
 * The usual period of what is drawn over time: one of which something is known.
 *
 * @param {Context} context
 * @param {string} usual
 */
export function usualPeriod(context, usual) {
  const uptime = Math.max(0, ...(context.live.tick?.services ?? []).map((row) => Number(row.uptime)));
  return uptime > 0 && uptime < FIRST_SECONDS ? "15m" : usual;
}

/**
 * Chooses a period: one of the usual ones, or any other.
 *
 * @param {object} options
 * @param {Period} options.period
 * @param {(period: Period) => void} options.onChange
 * @param {[string, string][]} [options.choices]
 * @returns {{element: HTMLElement, update: (period: Period) => void}}
 */
export function periodPicker({ period, onChange, choices = PERIODS }) {
  const id = `period-${(made += 1)}`;
  const select = h("select", { id, onchange: changed }, ...choices.map(([value, text]) => h("option", { value }, text)));
  select.append(h("option", { value: "other" }, "other…"));
  const since = h("input", { type: "datetime-local", id: `${id}-since`, step: 1 });
  const until = h("input", { type: "datetime-local", id: `${id}-until`, step: 1 });
  const problem = h("span", { class: "field-problem", role: "alert" });
  const other = h(
    "form",
    { class: "period-other", hidden: true, novalidate: true, onsubmit: applied },
    h("label", { for: since.id }, "from"),
    since,
    h("label", { for: until.id }, "to"),
    until,
    h("button", { type: "submit" }, "Show"),
    problem,
  );
  const element = h("div", { class: "picker" }, h("label", { for: id }, "Period"), select, other);

  function changed() {
    if (select.value === "other") {
      const now = Date.now() / 1000;
      const from = momentOf(period.since, now);
      since.value = localText(Number.isFinite(from) ? from : now - 86_400);
      until.value = period.until === "" ? "" : localText(momentOf(period.until, now));
      other.hidden = false;
      since.focus();
      return;
    }
    other.hidden = true;
    period = { since: select.value, until: "" };
    onChange(period);
  }

  /** @param {Event} event */
  function applied(event) {
    event.preventDefault();
    const from = new Date(since.value);
    const to = until.value === "" ? new Date() : new Date(until.value);
    const text = Number.isNaN(from.getTime())
      ? "Say from when."
      : Number.isNaN(to.getTime())
        ? "Say until when, or leave it empty for now."
        : from >= to
          ? "The end must be after the beginning."
          : "";
    setText(problem, text);
    if (text === "") {
      period = { since: from.toISOString(), until: until.value === "" ? "" : to.toISOString() };
      onChange(period);
    }
  }

  /** @param {Period} wanted */
  function update(wanted) {
    period = wanted;
    const isUsual = wanted.until === "" && choices.some(([value]) => value === wanted.since);
    select.value = isUsual ? wanted.since : "other";
    other.hidden = isUsual;
    if (!isUsual) {
      const now = Date.now() / 1000;
      since.value = localText(momentOf(wanted.since, now));
      until.value = wanted.until === "" ? "" : localText(momentOf(wanted.until, now));
    }
  }

  update(period);
  return { element, update };
}

/**
 * A time as an input of the type datetime-local has it.
 *
 * @param {number} seconds
 */
function localText(seconds) {
  const moment = new Date(seconds * 1000);
  const local = new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000);
  return Number.isNaN(local.getTime()) ? "" : local.toISOString().slice(0, 19);
}

/**
 * The names of the services.
 *
 * @param {Context} context
 * @returns {Promise<string[]>}
 */
async function serviceNames(context) {
  const rows = context.live.tick?.services ?? (await get("services", { max_age: 5 })).rows;
  return rows.map((/** @type {import("./types.js").Row} */ row) => String(row.sid));
}

/**
 * The names of the services, as far as they are known now: what a filter's field proposes.
 *
 * @param {Context} context
 */
export function serviceChoices(context) {
  return (context.live.tick?.services ?? []).map((row) => String(row.sid));
}

/**
 * Chooses a service, or all of them.
 *
 * @param {Context} context
 * @param {object} options
 * @param {string} options.value
 * @param {(service: string) => void} options.onChange
 * @param {string} [options.all] What is said for all of them.
 * @returns {{element: HTMLElement, select: HTMLSelectElement, update: (service: string) => void}}
 */
export function servicePicker(context, { value, onChange, all = "all services" }) {
  const id = `service-${(made += 1)}`;
  const select = h("select", { id, onchange: () => onChange(select.value) });
  const element = h("div", { class: "picker" }, h("label", { for: id }, "Service"), select);
  let chosen = value;
  /** @type {string[]} */
  let names = [];

  function draw() {
    const known = chosen === "" || names.includes(chosen) ? names : [chosen, ...names];
    keyed(
      select,
      ["", ...known],
      (name) => `service ${name}`,
      (name) => h("option", { value: name }, name === "" ? all : name),
    );
    select.value = chosen;
  }

  draw();
  serviceNames(context).then(
    (found) => {
      names = found;
      draw();
    },
    () => {}, // the view itself says that the server is gone
  );
  return {
    element,
    select,
    update(service) {
      chosen = service;
      draw();
    },
  };
}

/**
 * A field for a line of text, such as an address, which takes effect by Enter, or when it is left.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {string} options.value
 * @param {(value: string) => void} options.onChange
 * @param {string} [options.placeholder]
 * @param {string} [options.help] What may be written.
 * @returns {{element: HTMLElement, input: HTMLInputElement, update: (value: string) => void,
 *   setProblem: (text: string) => void}}
 */
export function textField({ label, value, onChange, placeholder = "", help = "" }) {
  const id = `text-${(made += 1)}`;
  const problem = h("span", { class: "field-problem", id: `${id}-problem`, role: "alert" });
  const input = h("input", {
    type: "text",
    id,
    value,
    placeholder,
    title: help,
    spellcheck: "false",
    autocomplete: "off",
    autocapitalize: "off",
    "aria-describedby": `${id}-problem`,
    // While one types, and not when the field is left by a click: what is clicked would move away.
    oninput: () => setProblem(""),
    onchange: () => onChange(input.value.trim()),
  });
  const element = h("div", { class: "picker picker-text" }, h("label", { for: id }, label), input, problem);

  /** @param {string} text */
  function setProblem(text) {
    setText(problem, text);
    setAttribute(input, "aria-invalid", text === "" ? null : "true");
  }

  return {
    element,
    input,
    update(text) {
      if (document.activeElement !== input || text !== "") {
        input.value = text;
      }
    },
    setProblem,
  };
}

/**
 * What to do where the server lacks what a view needs.
 *
 * @param {string} title
 * @param {string} text
 * @param {string} configuration What to add to the configuration.
 * @returns {HTMLElement}
 */
export function notConfigured(title, text, configuration) {
  return h(
    "section",
    { class: "not-configured" },
    h("h1", null, title),
    h("p", null, text),
    h("p", null, "Add this to the configuration, and restart monconn:"),
    h("pre", null, ...configuration.split("\n").flatMap((line, index) => (index ? [h("br", null), line] : [line]))),
  );
}

/**
 * What the server says about a filter, for its field; null if the problem is another one.
 *
 * @param {import("./api.js").Problem} problem
 */
export function problemOfFilter(problem) {
  return problem.errors.find((each) => each.name === "filter") ?? null;
}

/**
 * Asks again once the server is there again, of a view that asks for nothing by itself.
 *
 * @param {Context} context
 * @param {() => void} again
 * @returns {{missed: (problem: import("./api.js").Problem) => void, off: () => void}} `missed` is
 *   told of each problem.
 */
export function whenBack(context, again) {
  let isMissed = false;
  // Not only when it is back: a call may fail, though the stream goes on.
  const off = context.live.on("tick", () => {
    if (isMissed) {
      isMissed = false;
      again();
    }
  });
  return {
    missed(problem) {
      isMissed = isMissed || problem.isGone;
    },
    off,
  };
}
