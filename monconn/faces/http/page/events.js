/**
 * Alarms and actions, as they happen: a notice of each alarm that begins, and a list of the last
 * ones behind a button of the header.
 */
import { notify, openDialog } from "./dialogs.js";
import { h, keyed, replace, setText } from "./dom.js";
import { live } from "./live.js";
import { formatTime } from "./units.js";

/** How many are remembered. */
const REMEMBERED = 100;
/** At most one notice in this time: a storm of alarms is counted. */
const NOTICE_MILLISECONDS = 3000;

/** @typedef {import("./types.js").Row} Row */

/** @type {Row[]} The last one first. */
const events = [];
let unseen = 0;
let noticedAt = 0;
let uncounted = 0;
/** @type {number} */
let timer = 0;
/** @type {HTMLButtonElement | null} */
let button = null;
/** @type {(() => void) | null} */
let drawList = null;

/** @param {Row} event */
function alarmText(event) {
  const who = event.name ?? event.device ?? event.subject ?? "";
  const over = event.over ? " is over" : "";
  const detail = event.detail ? `: ${event.detail}` : "";
  return `${event.alarm}${over} · ${who}${event.service ? ` (${event.service})` : ""}${detail}`;
}

/** @param {Row} event */
function eventText(event) {
  return event.event === "alarm" ? alarmText(event) : String(event.text ?? `${event.action} ${event.target ?? ""} (${event.actor})`);
}

/** @param {Row} event */
function happened(event) {
  events.unshift(event);
  events.length = Math.min(events.length, REMEMBERED);
  if (drawList === null) {
    unseen += 1;
  }
  draw();
  drawList?.();
}

live.on("alarm", (event) => {
  happened(event);
  if (!event.over) {
    uncounted += 1;
    if (timer === 0) {
      timer = setTimeout(notice, Math.max(0, noticedAt + NOTICE_MILLISECONDS - Date.now()));
    }
  }
});
live.on("action", happened);
live.on("state", (state) => {
  if (state.state === "logged_out") {
    events.length = 0;
    unseen = 0;
    uncounted = 0;
  }
});

function notice() {
  timer = 0;
  noticedAt = Date.now();
  const alarm = events.find((event) => event.event === "alarm" && !event.over);
  if (alarm !== undefined && uncounted > 0) {
    notify(`Alarm: ${alarmText(alarm)}${uncounted > 1 ? ` · and ${uncounted - 1} more` : ""}`, "warning");
  }
  uncounted = 0;
}

function draw() {
  if (button !== null) {
    const count = unseen > 99 ? "99+" : String(unseen);
    replace(button, "⚑", unseen > 0 ? h("span", { class: "badge" }, count) : null);
    const text = unseen > 0 ? `Alarms and actions: ${count} new` : "Alarms and actions";
    button.title = text;
    button.setAttribute("aria-label", text);
  }
}

/** A button that shows the last ones. */
export function eventsButton() {
  button = h("button", { type: "button", class: "icon-button", onclick: showEvents });
  draw();
  return button;
}

async function showEvents() {
  unseen = 0;
  draw();
  const list = h("ul", { class: "event-list" });
  const none = h("p", { class: "muted" }, "None since this page was opened; earlier ones are in the history.");
  drawList = () => {
    none.hidden = events.length > 0;
    keyed(
      list,
      events,
      (event) => `${event.sequence} ${event.at}`,
      (event) => {
        const isAlarm = event.event === "alarm";
        return h(
          "li",
          null,
          h("time", { class: "muted", datetime: event.at }, formatTime(event.at)),
          h("span", { class: isAlarm && !event.over ? "bad" : "" }, isAlarm ? (event.over ? "✓" : "▲") : "•"),
          h("span", null),
        );
      },
      (item, event) => setText(/** @type {Element} */ (item.lastElementChild), eventText(event)),
    );
  };
  drawList();
  await openDialog({ title: "Alarms and actions", className: "wide", content: () => [none, list] });
  drawList = null;
}
