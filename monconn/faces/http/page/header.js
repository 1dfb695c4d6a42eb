/**
 * What surrounds each view: navigation, whether the server is there, who is logged in, the theme.
 */
import { byId, h, replace, setAttribute, setText, svg } from "./dom.js";
import { eventsButton } from "./events.js";
import { showHelp } from "./keys.js";
import { live } from "./live.js";
import { formatCount, formatDuration, formatTime } from "./units.js";

/**
 * @typedef {import("./types.js").Session} Session
 * @typedef {import("./types.js").ConnectionState} ConnectionState
 * @typedef {import("./app.js").Page} Page
 *
 * @typedef {object} Shell
 * @property {Page[]} pages
 * @property {(path: string) => string} link
 * @property {() => void} logOut
 */

const THEMES = /** @type {const} */ (["auto", "light", "dark"]);
const STATE_TEXTS = { connecting: "Connecting", live: "Live", gone: "Gone", logged_out: "Logged out" };

/** @type {Session | null} */
let drawnFor = null;
/** @type {HTMLElement | null} */
let pill = null;
/** @type {HTMLElement | null} */
let count = null;

/**
 * @param {Session | null} session Null while nobody is logged in.
 * @param {string} path Of the view that is shown.
 * @param {Shell} shell
 */
export function drawHeader(session, path, shell) {
  if (session === null) {
    drawnFor = pill = count = null;
    replace(byId("header"), h("span", { class: "brand" }, "monconn"), h("div", { class: "header-end" }, themeButton()));
    return;
  }
  if (drawnFor !== session) {
    drawnFor = session;
    drawAll(session, shell);
  }
  for (const item of byId("header").querySelectorAll("nav a")) {
    const own = item.getAttribute("data-path") ?? "";
    const isCurrent = path === own || path.startsWith(`${own}/`);
    setAttribute(item, "aria-current", isCurrent ? (path === own ? "page" : "true") : null);
    if (isCurrent) {
      item.scrollIntoView({ block: "nearest", inline: "nearest" }); // on a phone they scroll
    }
  }
}

/**
 * @param {Session} session
 * @param {Shell} shell
 */
function drawAll(session, { pages, link, logOut }) {
  pill = h("span", { class: "pill" });
  count = h("span", { class: "muted", id: "live-count" });
  const items = pages
    .filter((page) => page.nav !== undefined && (page.needs === undefined || session.has[page.needs] !== false))
    .map((page) => h("li", null, h("a", { href: link(page.path), dataset: { path: page.path } }, page.nav)));
  replace(
    byId("header"),
    h("a", { class: "brand", href: link("services"), title: `monconn ${session.version}` }, "monconn"),
    h("nav", { "aria-label": "Views" }, h("ul", null, items)),
    h(
      "div",
      { class: "header-end" },
      count,
      pill,
      h(
        "span",
        { class: "who", title: `Logged in as ${session.name}: may ${session.role}` },
        h("span", { class: "who-name" }, session.name),
        h("span", { class: "role" }, session.role),
      ),
      eventsButton(),
      themeButton(),
      h("button", { type: "button", class: "icon-button", "aria-label": "Keys and help", title: "Keys and help (?)", onclick: showHelp }, "?"),
      h("button", { type: "button", class: "quiet", title: "Log out", onclick: logOut }, h("span", { class: "log-out" }, "Log out"), doorIcon()),
    ),
  );
  drawState(live.state);
}

/** @param {ConnectionState} state */
function drawState(state) {
  if (pill !== null) {
    pill.className = `pill ${state.state}`;
    setText(pill, STATE_TEXTS[state.state]);
  }
  const banner = byId("banner");
  const isGone = state.state === "gone";
  if (isGone) {
    const seconds = Math.max(0, Math.round((Date.now() - state.since) / 1000));
    setText(
      banner,
      `The server has been gone since ${formatTime(state.since / 1000)} (${seconds < 60 ? `${seconds}s` : formatDuration(seconds)}): ${state.text}. ` +
        "What is shown is as it was then; this page comes back by itself.",
    );
  }
  banner.hidden = !isGone;
  document.documentElement.classList.toggle("is-gone", isGone);
}

live.on("state", drawState);
live.on("tick", (tick) => {
  if (count !== null) {
    setText(count, `${formatCount(tick.connections)} connection${tick.connections === 1 ? "" : "s"}`);
  }
});
setInterval(() => {
  if (live.state.state === "gone") {
    drawState(live.state);
  }
}, 1000);

/** Where there is no room for the words. */
function doorIcon() {
  return svg(
    "svg",
    { class: "door", viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" },
    svg("path", { d: "M9 2.5H3.5v11H9M6.5 8h7m-2.5-2.5L13.5 8 11 10.5", fill: "none", stroke: "currentColor", "stroke-width": 1.5 }),
  );
}

function themeButton() {
  const button = h("button", { type: "button", class: "icon-button", onclick: next });
  function theme() {
    const now = document.documentElement.dataset.theme;
    return now === "dark" || now === "light" ? now : "auto";
  }
  function draw() {
    setText(button, { auto: "◐", light: "☀", dark: "☾" }[theme()]);
    const text = `Theme: ${theme() === "auto" ? "as the system" : theme()}`;
    button.title = text;
    button.setAttribute("aria-label", text);
  }
  function next() {
    const chosen = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length] ?? "auto";
    if (chosen === "auto") {
      delete document.documentElement.dataset.theme;
    } else {
      document.documentElement.dataset.theme = chosen;
    }
    try {
      localStorage.setItem("monconn-theme", chosen);
    } catch {
      // Without storage it holds for this page only.
    }
    draw();
    window.dispatchEvent(new Event("themechange"));
  }
  draw();
  return button;
}
