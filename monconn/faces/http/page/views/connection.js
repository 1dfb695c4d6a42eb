/** One connection: how it goes, which side is slow, what is said, and why it ended. */
import { blockClients, closeConnections } from "../actions.js";
import { Problem, get, path } from "../api.js";
import { lineChart } from "../charts/lines.js";
import { ByteView } from "../connection/bytes.js";
import { drawExplanation, explain } from "../connection/explanation.js";
import { drawLife } from "../connection/life.js";
import { patchChildren } from "../connection/patch.js";
import { Rates } from "../connection/rates.js";
import { drawSides, figuresHelp } from "../connection/sides.js";
import { Tapping } from "../connection/tapping.js";
import { h, keyed, replace, setAttribute, setText } from "../dom.js";
import { formatBytes, formatCount, formatDuration, formatRate, formatTime, formatValue } from "../units.js";

/**
 * @typedef {import("../types.js").Row} Row
 * @typedef {import("../types.js").Context} Context
 * @typedef {import("../types.js").Column} Column
 */

/** States in words; the others are as they are. */
const STATES = /** @type {Record<string, string>} */ ({
  connecting: "connecting to the backend",
  open: "open",
  half_closed: "half-closed: one side has ended",
  closing: "being closed",
  closed: "closed",
});
/** How much time the chart of rates shows at least. */
const LEAST_SECONDS = 120;

/** @type {import("../types.js").View} */
export default {
  title: "Connection",
  async mount(root, params, context) {
    const view = new ConnectionView(root, String(params.id), context);
    await view.start();
    return () => view.stop();
  },
};

class ConnectionView {
  /**
   * @param {HTMLElement} root
   * @param {string} id Its id, or its uid.
   * @param {Context} context
   */
  constructor(root, id, context) {
    this.root = root;
    this.id = id;
    this.context = context;
    /** @type {Row | null} */
    this.row = null;
    /** @type {Map<string, Column>} */
    this.columns = new Map();
    this.rates = new Rates();
    this.isAsking = false;
    this.isStopped = false;
    this.isForgotten = false;
    this.explained = "";
    /** @type {(() => void)[]} */
    this.leaving = [];
    this.chart = lineChart({
      label: "Rates",
      series: [
        { label: "up: from the client", colour: 1 },
        { label: "down: from the backend", colour: 2 },
      ],
      format: (value) => (value < 1 ? "0 B/s" : formatRate(value)),
      isBinary: true,
      empty: "Rates appear as they are measured, once a second.",
    });
    this.title = h("h1", null, "Connection");
    this.state = h("p", { class: "connection-state" });
    this.links = h("p", { class: "connection-links" });
    this.buttons = h("div", { class: "toolbar" });
    this.notice = h("p", { class: "connection-notice", role: "status", hidden: true });
    this.why = h("section", { class: "card", hidden: true });
    this.life = h("ol", { class: "life", "aria-label": "From its opening to its end" });
    this.sides = h("div");
    this.facts = h("dl", { class: "connection-facts" });
    this.fields = h("tbody");
    this.traffic = h("p", { class: "connection-traffic" });
    this.bytes = h("section", { class: "card", "aria-labelledby": "bytes-title" });
  }

  async start() {
    const row = await this.ask();
    await this.readColumns();
    if (this.isStopped) return;
    if (row === null) {
      const { link } = this.context;
      const places = [h("a", { href: link("connections") }, "Live connections"), " · ", h("a", { href: link("closed") }, "Closed ones")];
      replace(this.root, h("h1", null, `Connection ${this.id}`), this.notice, h("p", null, places));
      return;
    }
    replace(
      this.root,
      h("div", { class: "connection-head" }, h("div", null, this.title, this.state, this.links), this.buttons),
      this.notice,
      this.why,
      card("life-title", "Timeline", this.life),
      card("rates-title", "Traffic", this.traffic, this.chart.element),
      card("sides-title", row.closed_at ? "Which side was slow" : "Which side is slow", this.sides, figuresHelp()),
      card("facts-title", "Facts", this.facts),
      this.bytes,
      h(
        "section",
        { class: "card" },
        h(
          "details",
          { class: "all-fields" },
          h("summary", null, h("h2", null, "All fields")),
          h(
            "table",
            { class: "plain fields" },
            h("thead", null, h("tr", null, ["Field", "Value", "Meaning"].map((each) => h("th", { scope: "col" }, each)))),
            this.fields,
          ),
        ),
      ),
    );
    this.drawButtons();
    this.drawBytes();
    this.show(row);
    const off = this.context.live.on("tick", () => this.refresh());
    this.leaving.push(off, () => this.chart.remove());
    const seen = () => this.refresh();
    document.addEventListener("visibilitychange", seen);
    this.leaving.push(() => document.removeEventListener("visibilitychange", seen));
  }

  stop() {
    this.isStopped = true;
    for (const leave of this.leaving.splice(0)) leave();
  }

  // -- asking

  /** @returns {Promise<Row | null>} None if it is not known any more, which is said. */
  async ask() {
    try {
      return await get(`connections/${path(this.id)}`, { max_age: 1 });
    } catch (error) {
      if (error instanceof Problem && error.status === 404) {
        await this.forgotten(error);
        return this.row;
      }
      throw error;
    }
  }

  async readColumns() {
    try {
      const { columns } = await this.context.columns("connection");
      for (const column of columns) this.columns.set(column.name, column);
    } catch (error) {
      if (!(error instanceof Problem)) throw error; // then fields go by their names
    }
  }

  /** Ask again, if that can bring something new and somebody looks. */
  async refresh() {
    if (this.isAsking || this.isStopped || this.isForgotten || document.hidden) return;
    if (this.row?.closed_at) return;
    this.isAsking = true;
    try {
      const row = await this.ask();
      if (row !== null && !this.isStopped) this.show(row);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      // The page says itself that the server is gone; the next tick tries again.
    } finally {
      this.isAsking = false;
    }
  }

  /**
   * The server does not know it any more: only the last that have closed stay in its memory.
   *
   * @param {Problem} problem
   */
  async forgotten(problem) {
    this.isForgotten = true;
    this.drawButtons();
    const inHistory = this.context.session.has.history ? await this.fromHistory() : null;
    if (inHistory !== null) {
      this.row = inHistory;
      this.say("It has left the server's memory; this is what the history has of it.");
      return;
    }
    this.say(
      this.row === null
        ? `${problem.detail || problem.title}. Live connections and the last ones that have closed can be shown.`
        : "The server does not know it any more (it was restarted, or the connection has left its memory): this is what was seen last.",
    );
  }

  /** @returns {Promise<Row | null>} */
  async fromHistory() {
    const uid = this.row?.uid ?? (this.id.includes("-") ? this.id : "");
    if (!uid) return null;
    try {
      const answer = await get("history", { filter: `uid:${uid}`, limit: 1, max_age: 1 });
      return answer.rows[0] ?? null;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return null;
    }
  }

  /** @param {string} text */
  say(text) {
    setText(this.notice, text);
    this.notice.hidden = false;
  }

  // -- showing

  /** @param {Row} row */
  show(row) {
    const before = this.row;
    this.row = row;
    this.id = row.uid ?? this.id; // after a restart of the server, its number is that of another one
    const isOver = Boolean(row.closed_at);
    const name = row.facts?.mqtt_client_id;
    const title = name ? `${name} (${row.client})` : row.client;
    setText(this.title, title);
    this.context.title(`${title} · connection ${row.id ?? ""}`);
    setText(this.state, stateText(row));
    setAttribute(this.state, "class", `connection-state ${stateTone(row)}`);
    if (before === null) this.drawLinks(row);
    if (before === null || Boolean(before.closed_at) !== isOver) this.drawButtons();
    drawLife(this.life, row);
    setText(this.traffic, trafficText(row));
    this.rates.add(row);
    const last = this.rates.samples[this.rates.samples.length - 1]?.at ?? 0;
    const first = this.rates.samples[0]?.at ?? last;
    this.chart.update({ samples: this.rates.samples, since: Math.min(first, last - LEAST_SECONDS), until: last });
    this.chart.element.hidden = isOver && this.rates.samples.length < 2;
    drawSides(this.sides, row);
    if (JSON.stringify(before?.facts) !== JSON.stringify(row.facts) || before === null) this.drawFacts(row);
    this.drawFields(row);
    if (before !== null && before.state !== row.state && !isOver) {
      this.context.announce(`The connection is ${STATES[row.state] ?? row.state}`);
    }
    if (before !== null && !before.closed_at && isOver) {
      this.context.announce(`The connection has ended: ${row.reason ?? row.refusal}`);
    }
    this.recordingKnown?.(row);
    const word = row.refusal ?? row.reason;
    if (word && word !== this.explained) {
      this.explained = word;
      this.drawWhy(row, word);
    }
  }

  /** @param {Row} row */
  drawLinks(row) {
    const { link, session } = this.context;
    const ip = String(row.client_ip ?? "");
    const hasIp = /[.:]/.test(ip);
    const name = row.facts?.mqtt_client_id;
    const has = session.has;
    replace(
      this.links,
      [
        h("a", { href: link("connections", { filter: `service:${row.service}` }) }, `service ${row.service}`),
        hasIp ? h("a", { href: link("connections", { filter: `client:${ip}` }) }, `live from ${ip}`) : null,
        has.history && hasIp ? h("a", { href: link("history", { filter: `client:${ip}` }) }, "its history") : null,
        has.devices && (name || hasIp) ? h("a", { href: link(`devices/${encodeURIComponent(name ?? ip)}`) }, "device") : null,
        hasIp ? h("a", { href: link("why", { client: ip, service: row.service }) }, "may it enter?") : null,
      ].flatMap((each) => (each === null ? [] : [each, " "])),
    );
  }

  drawButtons() {
    const row = this.row;
    if (row === null || !this.context.mayOperate) {
      replace(this.buttons);
      return;
    }
    const isLive = !row.closed_at && !this.isForgotten;
    const act = (/** @type {(row: Row) => Promise<boolean>} */ action) => async () => {
      if (this.row !== null && (await action(this.row))) this.refresh();
    };
    replace(
      this.buttons,
      isLive
        ? h("button", { type: "button", class: "danger", onclick: act((each) => closeConnections([each])) }, "Close…")
        : null,
      /[.:]/.test(String(row.client_ip))
        ? h("button", { type: "button", class: "danger", onclick: act((each) => blockClients([String(each.client_ip)])) }, "Block client…")
        : null,
    );
  }

  /**
   * @param {Row} row
   * @param {string} word
   */
  async drawWhy(row, word) {
    try {
      const explanation = await explain(word, row.refusal ? "refusal" : "reason");
      if (explanation === null || this.isStopped) return;
      drawExplanation(this.why, explanation, row, row.refusal ? "Why it was refused" : "Why it ended", this.context);
      this.why.hidden = false;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
    }
  }

  /** @param {Row} row */
  drawFacts(row) {
    const facts = Object.entries(row.facts ?? {});
    if (facts.length === 0) {
      replace(this.facts, h("dt", null, "none"), h("dd", { class: "muted" }, "Nothing is known from its bytes, and nobody has set any."));
      return;
    }
    const { link } = this.context;
    replace(
      this.facts,
      facts.flatMap(([name, value]) => {
        const text = String(value);
        // Others would need quotes in a filter, and are no names.
        const isPlain = /^[\w.@/-]{1,100}$/.test(text);
        const filter = `${name}:${text}`;
        return [
          h("dt", null, name),
          h("dd", null, isPlain ? h("a", { href: link("connections", { filter }), title: "live connections with this fact" }, text) : text),
        ];
      }),
    );
  }

  /** @param {Row} row */
  drawFields(row) {
    const names = Object.keys(row).filter((name) => name !== "at" && row[name] !== null && row[name] !== undefined);
    keyed(
      this.fields,
      names,
      (name) => name,
      (name) => {
        const column = this.columns.get(name);
        return h(
          "tr",
          null,
          h("th", { scope: "row" }, column ? h("span", { class: "field-title" }, column.title) : null, h("code", null, name)),
          h("td", { class: "field-value" }),
          h("td", { class: "muted" }, column?.help ?? ""),
        );
      },
      (element, name) => {
        const lines = fieldLines(row[name], this.columns.get(name));
        patchChildren(/** @type {Element} */ (element.children[1]), lines.map((line) => h("div", null, line)));
      },
    );
  }

  // -- bytes

  drawBytes() {
    const title = h("h2", { id: "bytes-title" }, "Bytes");
    if (!this.context.mayOperate) {
      replace(
        this.bytes,
        title,
        h("p", null, "Bytes of connections are shown only to those who may operate; you may view. ", h("code", null, "monconn web"), " of somebody who may operate opens this page with that role."),
      );
      return;
    }
    const view = new ByteView("Bytes of the connection");
    view.element.hidden = true;
    const about = h("p", { class: "muted", role: "status" });
    const record = h("button", { type: "button" }, "Show the recording");
    const tap = h("button", { type: "button", "aria-pressed": "false" }, "Start a live tap");
    const look = h(
      "select",
      { "aria-label": "How bytes are shown" },
      h("option", { value: "hex" }, "hex and text"),
      h("option", { value: "text" }, "text alone"),
    );
    look.addEventListener("change", () => view.setLook(look.value === "text" ? "text" : "hex"));
    replace(this.bytes, title, h("div", { class: "toolbar" }, record, tap, look), about, view.element);

    const tapping = new Tapping(() => this.row ?? {}, {
      events: (events, skipped) => {
        view.skip(skipped);
        view.add(events);
      },
      state: (isOn, text) => {
        setText(tap, isOn ? "Stop the tap" : "Start a live tap");
        setAttribute(tap, "aria-pressed", isOn ? "true" : "false");
        setText(about, text);
      },
    });
    tap.addEventListener("click", () => {
      if (tapping.isOn) {
        tapping.stop("The tap was stopped.");
        return;
      }
      view.clear();
      view.element.hidden = false;
      tapping.start();
    });
    record.addEventListener("click", async () => {
      tapping.stop("");
      try {
        const { events } = await get(`connections/${path(this.id)}/recording`);
        view.clear();
        view.element.hidden = false;
        view.add(events);
        view.element.scrollTop = 0;
        const count = events.filter((/** @type {any} */ each) => each.event === "data").length;
        setText(about, count ? `The recording: the first and the last bytes of each direction. Read at ${formatTime(new Date())}; the server's log says by whom.` : "The recording has no bytes: nothing was sent.");
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        view.element.hidden = true;
        setText(about, `There is no recording: ${error.detail || error.title}`);
      }
    });
    this.recordingKnown = (/** @type {Row} */ row) => {
      setText(record, row.recorded === undefined ? "Is there a recording?" : `Show the recording (${formatBytes(row.recorded)})`);
      tap.hidden = Boolean(row.closed_at) || this.isForgotten;
      if (row.closed_at && tapping.isOn) tapping.stop("The connection has ended.");
    };
    this.leaving.push(() => {
      tapping.stop("");
      view.destroy();
    });
  }

  /** @type {((row: Row) => void) | undefined} */
  recordingKnown;
}

/**
 * @param {string} id
 * @param {string} title
 * @param {...Node} children
 */
function card(id, title, ...children) {
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

/** @param {Row} row */
function stateText(row) {
  if (row.refusal) return `Refused: ${row.refusal}${row.detail ? ` (${row.detail})` : ""}`;
  if (row.closed_at) {
    // A side that vanished has ended nothing; its reason says which one it was.
    const by = row.closed_by && !String(row.reason).endsWith("_lost") ? `, ended by ${row.closed_by === "monconn" ? "monconn" : `the ${row.closed_by}`}` : "";
    return `Closed: ${row.reason}${by}, after ${formatDuration(Number(row.duration_seconds ?? row.age_seconds))}`;
  }
  const texts = [STATES[row.state] ?? row.state];
  for (const side of ["client", "backend"]) {
    const seconds = row[`${side}_unreachable_seconds`];
    if (typeof seconds === "number") texts.push(`${side} unreachable for ${formatDuration(seconds)}`);
  }
  if (row.is_paused) texts.push("its service is paused");
  if (row.is_limited) texts.push("limited by bandwidth");
  if (row.reason) texts.push(`as ${row.reason}`);
  return `${texts.join(", ")} · ${formatDuration(Number(row.age_seconds))} old · idle ${formatDuration(Number(row.idle_seconds))}`;
}

/** @param {Row} row */
function stateTone(row) {
  if (row.refusal || (row.code && row.code !== "--")) return "bad";
  if (row.client_unreachable_seconds !== undefined || row.backend_unreachable_seconds !== undefined) return "warn";
  return row.closed_at ? "muted" : "good";
}

/** @param {Row} row */
function trafficText(row) {
  const parts = ["up", "down"].map((direction) => {
    const count = Number(row[direction] ?? 0);
    const exact = count >= 1024 ? ` (${formatCount(count)} bytes)` : "";
    return `${direction} ${formatBytes(count)}${exact}`;
  });
  const seconds = Number(row.duration_seconds ?? row.age_seconds ?? 0);
  if (row.closed_at && seconds > 0) {
    parts.push(`on average ${rateText(row.up / seconds)} up, ${rateText(row.down / seconds)} down`);
  }
  return parts.join(" · ");
}

/** @param {number} rate */
const rateText = (rate) => (rate < 1 ? "0 B/s" : formatRate(rate));

/**
 * The value of a field as people read it, and as it is in JSON if that says more.
 *
 * @param {any} value
 * @param {Column | undefined} column
 * @returns {string[]}
 */
function fieldLines(value, column) {
  if (Array.isArray(value)) return value.map(String);
  if (typeof value === "object" && value !== null) {
    return Object.entries(value).flatMap(([name, each]) => (Array.isArray(each) ? each : [each]).map((one) => `${name}: ${one}`));
  }
  const unit = column?.unit ?? "text";
  const text = formatValue(value, unit);
  const isRounded = ["bytes", "seconds", "time", "bytes_per_second"].includes(unit);
  return [isRounded && text !== "-" && text !== String(value) ? `${text} (${value})` : text];
}
