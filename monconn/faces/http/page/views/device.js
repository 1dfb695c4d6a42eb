/** One device: who it is, what is usual for it, and what it did. */
import { Problem, get, post } from "../api.js";
import { closeConnections } from "../actions.js";
import { strip } from "../charts/strip.js";
import { timeline } from "../charts/timeline.js";
import { confirmAction, notify, notifyProblem } from "../dialogs.js";
import { h, replace } from "../dom.js";
import { periodPicker, servicePicker, usualPeriod } from "../pickers.js";
import { PlainTable } from "../table/plain.js";
import { getPresence, shareText, stripOf } from "../presence.js";
import { asDate, formatBytes, formatCount, formatDuration, formatTime } from "../units.js";
import { alarmTags, noDevices, stripKey } from "./devices.js";

/**
 * @typedef {import("../types.js").Context} Context
 * @typedef {import("../types.js").Params} Params
 * @typedef {import("../types.js").Row} Row
 * @typedef {import("../charts/timeline.js").Lane} Lane
 */

const USUAL = "24h";
const REFRESH_SECONDS = 3;
const USUAL_ROWS = 200;
const MOST_ROWS = 1000;

/** What is removed of a client, in words. */
const FORGOTTEN = /** @type {Record<string, string>} */ ({
  closed: "closed connections in memory",
  ips: "totals of IPs in memory",
  devices: "devices in memory",
  recordings: "recordings of connections",
  history_connections: "connections of the history",
  history_events: "events of the history",
  history_hourly_sums: "hourly sums of the history",
  history_devices: "devices of the history",
});

export default { title: "Device", mount };

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
  const { columns } = await context.columns("timeline");
  const view = new DeviceView(root, columns, params, context);
  view.load();
  return { unmount: () => view.unmount(), update: (/** @type {Params} */ wanted) => view.update(wanted) };
}

class DeviceView {
  /**
   * @param {HTMLElement} root
   * @param {import("../types.js").Column[]} columns
   * @param {Params} params
   * @param {Context} context
   */
  constructor(root, columns, params, context) {
    this.params = params;
    this.context = context;
    this.name = params.name ?? "";
    this.number = 0;
    this.left = REFRESH_SECONDS;
    this.limit = USUAL_ROWS;
    /** @type {Row | null} */
    this.head = null;
    /** Of which services there are strips. */
    this.drawn = "";
    /** @type {Map<string, import("../charts/chart.js").Chart<any>>} */
    this.strips = new Map();
    this.shownHead = "";
    this.actedOn = "";
    context.title(this.name);
    this.heading = h("h1", null, this.name);
    this.tags = h("span", { class: "alarm-tags" });
    this.actions = h("div", { class: "toolbar end" });
    this.period = periodPicker({ period: this.wanted(), onChange: (wanted) => this.go({ ...wanted }) });
    this.service = servicePicker(context, { value: params.service ?? "", onChange: (service) => this.go({ service }) });
    this.problem = h("p", { class: "error", role: "alert" });
    this.who = h("div", { class: "device-columns" });
    this.stripsPlace = h("div", { class: "device-strips" });
    this.chart = timeline({ label: `What ${this.name} did` });
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.showMore() }, "Show more");
    this.count = h("span", { class: "muted" });
    this.table = new PlainTable({
      label: "What it did, and what happened to it",
      // An alarm's kind stands where an end has its reason.
      columns: columns.filter((column) => column.name !== "alarm").map((column) => (column.name === "what" ? { ...column, width: 12 } : column)),
      key: (row) => `${row.at} ${row.what} ${row.service ?? ""} ${row.id ?? ""} ${row.alarm ?? row.refusal ?? ""} ${row.number}`,
      sort: "",
      onSort: () => {},
      isSorted: true,
      cell: (column, row) => this.cell(column.name, row),
      rowClass: (row) => (row.what === "alarm" ? "has-alarm" : ""),
      empty: "Nothing is known of it in this period.",
    });
    this.story = h(
      "div",
      { class: "device-story" },
      this.who,
      h("section", { class: "card", "aria-label": "Presence" }, h("h2", null, "Presence"), this.stripsPlace, stripKey(), this.chart.element),
      h("h2", null, "What it did, the latest first"),
      this.table.element,
      h("div", { class: "toolbar" }, this.count, this.more),
    );
    replace(
      root,
      h("div", { class: "view-head" }, h("a", { href: context.link("devices") }, "Devices"), "›", this.heading, this.tags, this.actions),
      h("div", { class: "toolbar" }, this.period.element, this.service.element),
      this.problem,
      this.story,
    );
    this.off = context.live.on("tick", () => this.tick());
  }

  wanted() {
    return { since: this.params.since ?? usualPeriod(this.context, USUAL), until: this.params.until ?? "" };
  }

  /** @param {Params} changed */
  go(changed) {
    const { since, until, service } = this.params;
    this.context.navigate(`devices/${encodeURIComponent(this.name)}`, { since, until, service, ...changed });
  }

  /** @param {Params} params */
  update(params) {
    this.params = params;
    this.period.update(this.wanted());
    this.service.update(params.service ?? "");
    this.load();
  }

  tick() {
    this.left -= 1;
    if (this.left <= 0 && !document.hidden) {
      this.left = REFRESH_SECONDS;
      this.load();
    }
  }

  showMore() {
    this.limit = MOST_ROWS;
    this.load();
  }

  async load() {
    const mine = (this.number += 1);
    const { since, until } = this.wanted();
    // The server gives the latest rows, and those after the period are left out here.
    const limit = until === "" ? this.limit : MOST_ROWS;
    try {
      const story = await get("device", { name: this.name, service: this.params.service, since, limit, max_age: 1 });
      if (mine !== this.number) {
        return;
      }
      // By its own name, though it was asked for by another one.
      const presence = await getPresence([story.device.device], { since, until }, this.params.service);
      if (mine !== this.number) {
        return;
      }
      replace(this.problem, presence.problem === "" ? null : `The history was not asked: ${presence.problem}.`);
      this.story.hidden = false;
      this.draw(story, presence);
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      if (mine === this.number && !error.isGone) {
        replace(this.problem, error.message);
        this.story.hidden = this.head === null;
      }
    }
  }

  /**
   * @param {{device: Row, rows: Row[]}} story
   * @param {import("../presence.js").Presence} presence
   */
  draw({ device, rows }, presence) {
    this.head = device;
    const inPeriod = rows.filter((row) => asDate(row.at).getTime() / 1000 <= presence.until);
    replace(this.heading, device.name ?? device.device);
    replace(this.tags, device.blocked ? h("span", { class: "alarm-tag" }, "✕ blocked") : null, alarmTags([...new Set(/** @type {Row[]} */ (device.alarms).map((each) => String(each.alarm)))]));
    // What has the focus in it stays as long as nothing is different.
    const shown = JSON.stringify([device.device, device.addresses, device.facts, device.pattern, device.alarms, device.services, device.connections]);
    if (shown !== this.shownHead) {
      this.shownHead = shown;
      this.drawWho(device);
    }
    const actedOn = JSON.stringify([device.device, device.addresses[0]?.address, device.connections.map((/** @type {Row} */ each) => each.id)]);
    if (actedOn !== this.actedOn) {
      this.actedOn = actedOn;
      this.drawActions(device);
    }
    this.drawStrips(device, presence);
    this.chart.update({ since: presence.since, until: presence.until, lanes: this.lanes(inPeriod, device, presence) });
    this.table.setRows(inPeriod.map((row, number) => ({ ...row, number: inPeriod.length - number })));
    const total = Number(device.timeline_total ?? rows.length);
    replace(this.count, rows.length < total ? `${formatCount(inPeriod.length)} shown, ${formatCount(total - rows.length)} more are known` : "");
    this.more.hidden = rows.length >= total || this.limit === MOST_ROWS;
  }

  /** @param {Row} device */
  drawWho(device) {
    const { context } = this;
    const active = document.activeElement;
    if (active instanceof HTMLElement && this.who.contains(active)) {
      return; // once it has left, with the next answer
    }
    const services = /** @type {Row[]} */ (device.services);
    const addresses = /** @type {Row[]} */ (device.addresses);
    const facts = Object.entries(device.facts ?? {});
    const sentences = /** @type {string[]} */ (device.pattern);
    replace(
      this.who,
      h(
        "section",
        { class: "card" },
        h("h2", null, "Who it is"),
        h(
          "dl",
          { class: "fact-list" },
          ...fact("Known by", device.identity === "address" ? "its address" : `its ${device.identity}`),
          ...(device.name !== device.device ? fact("Device", device.device) : []),
          ...fact("Addresses", ...addresses.flatMap((each, index) => [index ? ", " : "", h("a", { href: context.link("connections", { filter: `client:${each.address}` }), title: "Its live connections" }, each.address)])),
          ...(services.length === 0 ? fact("Service", "known from the history only") : []),
          ...facts.flatMap(([name, value]) => fact(name, String(value))),
        ),
      ),
      ...services.map((each) => this.usual(each)),
      h(
        "section",
        { class: "card" },
        h("h2", null, `Connected now: ${formatCount(device.connections_total)}`),
        h("ul", { class: "sentences" }, .../** @type {Row[]} */ (device.connections).slice(0, 5).map((each) => this.live(each))),
        device.connections_total > 5 ? h("p", { class: "muted" }, `and ${formatCount(device.connections_total - 5)} more`) : null,
      ),
      sentences.length === 0 && device.alarms.length === 0
        ? null
        : h(
            "section",
            { class: "card" },
            h("h2", null, "What is striking"),
            h(
              "ul",
              { class: "sentences" },
              .../** @type {Row[]} */ (device.alarms).map((each) => h("li", { class: "bad" }, `▲ ${each.alarm} at ${each.service} since ${formatTime(each.since)}: ${each.detail}`)),
              ...sentences.map((each) => h("li", null, each)),
            ),
          ),
    );
  }

  /** @param {Row} row Of the device at one service. */
  usual(row) {
    const every = (/** @type {number | null} */ seconds, /** @type {number | null | undefined} */ limit, /** @type {string} */ what) =>
      seconds === null || seconds === undefined ? "not known yet" : `${what}${formatDuration(seconds)}${limit ? `; an alarm after ${formatDuration(limit)}` : ""}`;
    const keepalive = row.keepalive_seconds ?? null;
    return h(
      "section",
      { class: "card" },
      h("h2", null, `At ${row.service}`),
      h(
        "dl",
        { class: "fact-list" },
        ...fact("Speaks", every(row.heartbeat_seconds, keepalive === null ? row.silent_after_seconds : null, "every ")),
        ...(keepalive === null ? [] : fact("Keepalive", every(keepalive, row.silent_after_seconds, "declared "))),
        ...fact("Comes", every(row.reconnect_seconds, row.away_after_seconds, "every ")),
        ...fact("Last word", row.silent_seconds === null ? "it has never sent anything" : `${formatDuration(row.silent_seconds)} ago`),
        ...(row.last_heard_seconds === null ? fact("Last seen", `${formatTime(row.last_seen)}${row.last_reason ? `, ended with ${row.last_reason}` : ""}`) : fact("Answered", `${formatDuration(row.last_heard_seconds)} ago`)),
        ...fact("In all", `${formatCount(row.total)} connection${row.total === 1 ? "" : "s"} since ${formatTime(row.first_seen)}, up ${formatBytes(row.up)}, down ${formatBytes(row.down)}`),
      ),
    );
  }

  /** @param {Row} row */
  live(row) {
    return h(
      "li",
      null,
      h("a", { href: this.context.link(`connections/${row.id}`) }, `${row.id}`),
      ` from ${row.client} at ${row.service}, ${row.state}, for ${formatDuration(row.age_seconds)}, idle ${formatDuration(row.idle_seconds)}, up ${formatBytes(row.up)}, down ${formatBytes(row.down)}`,
    );
  }

  /** @param {Row} device */
  drawActions(device) {
    const { context } = this;
    const address = device.addresses[0]?.address;
    const connections = /** @type {Row[]} */ (device.connections);
    const again = () => this.load();
    replace(
      this.actions,
      h("a", { class: "button", href: context.link("why", { client: device.device }) }, "Why"),
      address && context.session.has.history !== false ? h("a", { class: "button", href: context.link("history", { client: address, since: "7d" }) }, "History") : null,
      context.mayOperate && connections.length > 0
        ? h("button", { type: "button", onclick: () => closeConnections(connections, context.live.hello?.served ?? context.session.served).then(again, notifyProblem) }, "Close…")
        : null,
      context.mayOperate && address ? h("a", { class: "button", href: context.link("blocks", { network: address }) }, "Block…") : null,
      context.mayOperate && address ? h("button", { type: "button", onclick: () => forget(address).then(again, notifyProblem) }, "Forget…") : null,
    );
  }

  /**
   * @param {Row} device
   * @param {import("../presence.js").Presence} presence
   */
  drawStrips(device, presence) {
    const found = [...presence.rows.values()].filter((row) => row.device === device.device);
    const names = found.map((row) => String(row.service));
    if (names.join("\n") !== this.drawn) {
      this.drawn = names.join("\n");
      replace(
        this.stripsPlace,
        ...names.map((name) => {
          let chart = this.strips.get(name);
          if (chart === undefined) {
            chart = strip({ label: `${this.name} at ${name}` });
            this.strips.set(name, chart);
          }
          return h("div", { class: "device-strip" }, h("span", { class: "device-strip-text" }, h("strong", null, name), " ", h("span", { class: "muted" })), chart.element);
        }),
      );
    }
    found.forEach((row, index) => {
      this.strips.get(row.service)?.update({ since: presence.since, until: presence.until, ...stripOf(row, presence.since, presence.until) });
      const text = this.stripsPlace.children[index]?.querySelector(".muted");
      if (text) {
        const alarms = row.alarms_total > 0 ? `, ${row.alarms_total} alarm${row.alarms_total === 1 ? "" : "s"}` : "";
        replace(text, `${shareText(row, presence.since, presence.until)}, ${formatCount(row.connections)} connection${row.connections === 1 ? "" : "s"}${alarms}`);
      }
    });
  }

  /**
   * @param {Row[]} rows
   * @param {Row} device
   * @param {import("../presence.js").Presence} presence
   * @returns {Lane[]}
   */
  lanes(rows, device, presence) {
    const at = (/** @type {string} */ iso) => asDate(iso).getTime() / 1000;
    const of = (/** @type {string[]} */ ...kinds) => rows.filter((row) => kinds.includes(row.what));
    const isGood = (/** @type {Row} */ row) => row.what === "open" || ["client_closed", "backend_closed"].includes(row.reason);
    const alarms = [...presence.rows.values()].filter((row) => row.device === device.device).flatMap((row) => /** @type {Row[]} */ (row.alarms));
    /** @type {Lane[]} */
    const lanes = [
      {
        label: "Connections",
        spans: of("ended", "open").map((row) => ({
          from: at(row.opened_at ?? row.at),
          to: row.what === "open" ? presence.until : at(row.at),
          text: `${row.service ?? ""} ${row.what === "open" ? "open" : row.reason}${row.id ? `, id ${row.id}` : ""}`,
          tone: isGood(row) ? "good" : "bad",
        })),
      },
      {
        label: "Alarms",
        spans: alarms.map((each) => ({
          from: each.since ?? presence.since,
          to: each.until ?? presence.until,
          text: `${each.alarm}${each.until === null ? ", goes on" : ""}: ${each.detail}`,
          tone: "bad",
        })),
      },
      { label: "Away for longer than usual", spans: of("absent").map((row) => ({ from: at(row.at) - row.duration_seconds, to: at(row.at), text: row.detail ?? "no connection", tone: "quiet" })) },
      { label: "Refused", points: of("refused").map((row) => ({ at: at(row.at), text: `${row.refusal}${row.detail ? `: ${row.detail}` : ""}`, tone: "bad" })) },
      { label: "monconn", points: of("started", "stopped").map((row) => ({ at: at(row.at), text: `${row.what}${row.detail ? `: ${row.detail}` : ""}`, tone: "quiet" })) },
    ];
    return lanes.filter((lane, index) => index < 1 || (lane.spans ?? lane.points ?? []).length > 0);
  }

  /**
   * @param {string} name
   * @param {Row} row
   */
  cell(name, row) {
    switch (name) {
      case "at":
        return formatTime(row.at);
      case "what":
        return { ended: "ended", open: "is open", absent: "was away", refused: "refused", alarm: "▲ alarm", alarm_over: "alarm over", started: "monconn started", stopped: "monconn stopped" }[/** @type {string} */ (row.what)] ?? row.what;
      case "reason":
        return row.reason ?? row.refusal ?? row.alarm ?? "-";
      case "detail":
        return row.detail ?? (row.what === "open" ? `id ${row.id}` : "-");
      default:
        return undefined;
    }
  }

  unmount() {
    this.number += 1;
    this.off();
    this.table.destroy();
    this.chart.remove();
    for (const chart of this.strips.values()) {
      chart.remove();
    }
  }
}

/**
 * @param {string} name
 * @param {...import("../dom.js").Child} value
 */
function fact(name, ...value) {
  return [h("dt", null, name), h("dd", null, ...value)];
}

/**
 * Remove what is stored of a client, once it is said what that is.
 *
 * @param {string} client
 * @throws {Problem}
 */
async function forget(client) {
  const check = await post("forget", { client, dry_run: true });
  const removed = Object.entries(check.removed).filter(([, count]) => Number(count) > 0);
  const text = [
    h("p", null, removed.length === 0 ? `Nothing is stored of ${client}.` : `What is stored of ${client} is removed for good:`),
    h("ul", { class: "sentences" }, ...removed.map(([what, count]) => h("li", null, `${FORGOTTEN[what] ?? what.replaceAll("_", " ")}: ${formatCount(Number(count))}`))),
    check.live > 0 ? h("p", null, `${formatCount(check.live)} live connections go on, and are recorded when they end.`) : null,
    ...check.not_removed.map((/** @type {string} */ each) => h("p", { class: "muted" }, `Not removed: ${each}`)),
  ];
  if (await confirmAction({ title: `Forget ${client}?`, text, label: "Forget", danger: true })) {
    const done = await post("forget", { client });
    notify(done.problem ? `What was stored of ${client} is removed, but: ${done.problem}` : `What was stored of ${client} is removed.`, done.problem ? "warning" : "good");
  }
}
