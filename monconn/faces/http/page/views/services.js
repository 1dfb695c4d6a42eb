/** The services in figures, with their connections and rates over the last minutes. */
import { sparkline } from "../charts/sparkline.js";
import { get } from "../api.js";
import { h, keyed, replace, setText } from "../dom.js";
import { asDate, formatBytes, formatCount, formatDuration, formatRate } from "../units.js";
import { reloadButton, serviceActions } from "../service_actions.js";

/**
 * @typedef {import("../types.js").Row} Row
 * @typedef {import("../types.js").Tick} Tick
 * @typedef {import("../types.js").Context} Context
 *
 * @typedef {object} Lines What is drawn of one service.
 * @property {number[]} connections
 * @property {number[]} up Bytes a second.
 * @property {number[]} down
 */

const STATE_CLASSES = /** @type {Record<string, string>} */ ({
  running: "good",
  paused: "warn",
  draining: "violet",
  stopping: "violet",
});
/** How many of what was refused, and of how connections ended, are named. */
const NAMED = 3;

/**
 * The figures of each service over the last ticks.
 *
 * @param {Tick[]} ticks
 * @returns {Map<string, Lines>}
 */
function linesOf(ticks) {
  /** @type {Map<string, Lines>} */
  const lines = new Map();
  /** @type {Map<string, {at: number, up: number, down: number}>} */
  const before = new Map();
  for (const tick of ticks) {
    const at = asDate(tick.at).getTime() / 1000;
    for (const service of tick.services) {
      const name = String(service.sid);
      let line = lines.get(name);
      if (line === undefined) {
        line = { connections: [], up: [], down: [] };
        lines.set(name, line);
      }
      line.connections.push(service.connections);
      const last = before.get(name);
      before.set(name, { at, up: service.up, down: service.down });
      if (last !== undefined) {
        // Totals that were set back are no negative rate.
        const seconds = Math.max(at - last.at, 0.1);
        line.up.push(Math.max(0, service.up - last.up) / seconds);
        line.down.push(Math.max(0, service.down - last.down) / seconds);
      }
    }
  }
  return lines;
}

/**
 * What a service does, and for how long it is still paused.
 *
 * @param {Row} service
 * @param {number} now Seconds of the server's wall clock.
 */
function stateText(service, now) {
  const state = String(service.state ?? "running");
  if (state !== "paused" || typeof service.paused_until !== "string") {
    return state;
  }
  return `paused ${formatDuration(Math.max(0, Math.round(asDate(service.paused_until).getTime() / 1000 - now)))}`;
}

/**
 * The most frequent of these, with their counts.
 *
 * @param {Record<string, number> | undefined | null} counts
 */
function mostOf(counts) {
  const entries = Object.entries(counts ?? {}).sort(([, one], [, other]) => other - one);
  const named = entries.slice(0, NAMED).map(([name, count]) => `${name} ${formatCount(count)}`);
  return named.join(" · ") + (entries.length > NAMED ? " …" : "");
}

/** One service: made once, and given its figures at each tick. */
class Card {
  /**
   * @param {Row} service
   * @param {Context} context
   */
  constructor(service, context) {
    this.context = context;
    const name = String(service.sid);
    this.state = h("span", { class: "state" });
    this.alarms = h("span", { class: "alarms bad" });
    this.connections = h("b", { class: "figure" });
    this.ips = h("span", { class: "muted" });
    this.up = h("b", { class: "figure" });
    this.down = h("b", { class: "figure" });
    this.upTotal = h("span", { class: "muted" });
    this.downTotal = h("span", { class: "muted" });
    this.facts = h("dl", { class: "service-facts" });
    this.actions = h("div", { class: "card-actions toolbar" });
    this.actionsFor = "";
    this.connectionsLine = sparkline({ label: `Connections of ${name}`, format: formatCount });
    this.rateLine = sparkline({ label: `Bytes a second of ${name}, from clients and from the backend`, format: formatRate });
    this.route = h("p", { class: "route muted" });
    const heading = `service-${name}`;
    this.element = h(
      "section",
      { class: "card service", "aria-labelledby": heading },
      h(
        "div",
        { class: "card-head" },
        h("h2", { id: heading }, h("a", { href: context.link("connections", { filter: `service:=${quoted(name)}` }) }, name)),
        this.state,
        this.alarms,
      ),
      this.route,
      h(
        "div",
        { class: "measures" },
        h("div", { class: "measure" }, h("span", { class: "label" }, "Connections"), this.connections, this.ips, this.connectionsLine.element),
        h(
          "div",
          { class: "measure" },
          h("span", { class: "label" }, h("span", { class: "key-up", "aria-hidden": "true" }), "Up ", h("span", { class: "label-more" }, "· from clients")),
          this.up,
          this.upTotal,
        ),
        h(
          "div",
          { class: "measure" },
          h("span", { class: "label" }, h("span", { class: "key-down", "aria-hidden": "true" }), "Down ", h("span", { class: "label-more" }, "· to clients")),
          this.down,
          this.downTotal,
        ),
        h("div", { class: "measure wide" }, this.rateLine.element),
      ),
      this.facts,
      this.actions,
    );
  }

  /**
   * @param {Row} service
   * @param {Lines | undefined} lines
   */
  update(service, lines) {
    const state = String(service.state ?? "running");
    this.state.className = `state tag ${STATE_CLASSES[state] ?? ""}`;
    setText(this.state, stateText(service, this.context.live.now()));
    const alarms = Array.isArray(service.alarms) ? service.alarms.map(String) : [];
    setText(this.alarms, alarms.length > 0 ? `▲ ${alarms.join(", ")}` : "");
    this.element.classList.toggle("has-alarm", alarms.length > 0);
    // A factory that a program has wrapped names neither.
    setText(this.route, [service.listen, service.backend].filter(Boolean).join(" → "));
    setText(this.connections, formatCount(service.connections));
    setText(this.ips, service.ip_count === undefined || service.ip_count === null ? "" : `of ${formatCount(service.ip_count)} IP${service.ip_count === 1 ? "" : "s"}`);
    setText(this.up, formatRate(lines?.up.at(-1) ?? 0));
    setText(this.down, formatRate(lines?.down.at(-1) ?? 0));
    setText(this.upTotal, `${formatBytes(service.up)} in all`);
    setText(this.downTotal, `${formatBytes(service.down)} in all`);
    this.connectionsLine.update({ values: lines?.connections ?? [] });
    this.rateLine.update({ values: lines?.up ?? [], second: lines?.down ?? [] });
    /** @type {[string, string][]} */
    const facts = [
      ["Opened", formatCount(service.total)],
      ["Counted for", formatDuration(Math.round(service.uptime))],
      ["Ended", mostOf(service.closed_by)],
      ["Refused", service.refused > 0 ? `${formatCount(service.refused)} (${mostOf(service.refused_by)})` : "none"],
      ["Would refuse", mostOf(service.would_refuse)],
    ];
    keyed(
      this.facts,
      facts.filter(([, text]) => text !== ""),
      ([name]) => name,
      ([name]) => h("div", null, h("dt", null, name), h("dd", null, "")),
      (element, [, text]) => setText(/** @type {Element} */ (element.lastElementChild), text),
    );
    // Made anew only if it may be another: a menu that is open stays so.
    if (this.actionsFor !== state) {
      this.actionsFor = state;
      const actions = serviceActions(service, this.context);
      replace(this.actions, ...(Array.isArray(actions) ? actions : [actions]));
      this.actions.hidden = this.actions.childNodes.length === 0;
    }
  }
}

/** @param {string} text A value of the filter language. */
function quoted(text) {
  return /[\s"'\\]/.test(text) ? `'${text.replace(/'/g, `'"'"'`)}'` : text;
}

/** @type {import("../types.js").View} */
export default {
  title: "Services",
  async mount(root, _params, context) {
    const list = h("div", { class: "cards" });
    const none = h("p", { class: "muted" }, "There is no service.");
    none.hidden = true;
    replace(root, h("h1", { class: "visually-hidden" }, "Services"), list, none, h("div", { class: "toolbar" }, reloadButton(context)));
    /** @type {WeakMap<Element, Card>} */
    const cards = new WeakMap();
    /** @param {Row[]} services */
    function draw(services) {
      const lines = linesOf(context.live.ticks);
      none.hidden = services.length > 0;
      keyed(
        list,
        services,
        (service) => service.sid,
        (service) => {
          const card = new Card(service, context);
          cards.set(card.element, card);
          return card.element;
        },
        (element, service) => cards.get(element)?.update(service, lines.get(String(service.sid))),
      );
    }
    function drawTick() {
      if (!document.hidden && context.live.tick !== null) {
        draw(context.live.tick.services);
      }
    }
    const off = context.live.on("tick", drawTick);
    document.addEventListener("visibilitychange", drawTick);
    if (context.live.tick === null) {
      draw((await get("services", { max_age: 1 })).rows); // the first tick may be a second away
    } else {
      drawTick();
    }
    return () => {
      off();
      document.removeEventListener("visibilitychange", drawTick);
    };
  },
};
