/**
 * What surrounds each view: navigation, whether the server is there, who is logged in, the theme.
 */
import { byId, h, replace, setAttribute, setText } from "./dom.js";
import { openDialog } from "./dialogs.js";
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
 * @param {Session} session
 * @param {string} path Of the view that is shown.
 * @param {Shell} shell
 */
export function drawHeader(session, path, shell) {
  if (drawnFor !== session) {
    drawnFor = session;
    drawAll(session, shell);
  }
  for (const item of byId("header").querySelectorAll("nav a")) {
    const own = item.getAttribute("data-path") ?? "";
    setAttribute(item, "aria-current", path === own ? "page" : path.startsWith(`${own}/`) ? "true" : null);
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
      h("span", { class: "who", title: `Logged in by ${session.kind}` }, session.name, h("span", { class: "role" }, session.role)),
      themeButton(),
      h("button", { type: "button", class: "icon-button", "aria-label": "Keys and help", title: "Keys and help (?)", onclick: showHelp }, "?"),
      h("button", { type: "button", class: "quiet", onclick: logOut }, "Log out"),
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
      `The server is gone since ${formatTime(state.since / 1000)} (${formatDuration(seconds)}): ${state.text}. ` +
        "What is shown is as it was then; this page comes back by itself.",
    );
  }
  banner.hidden = !isGone;
  document.documentElement.classList.toggle("is-gone", isGone);
}

live.on("state", drawState);
live.on("tick", (tick) => {
  if (count !== null) {
    setText(count, `${formatCount(tick.connections)} connections`);
  }
});
setInterval(() => {
  if (live.state.state === "gone") {
    drawState(live.state);
  }
}, 1000);

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

/** @type {[string, string][]} */
const KEYS = [
  ["/", "Go to the filter"],
  ["↑ ↓  Page Up  Page Down  Home  End", "Move in a table"],
  ["Enter", "Open the row"],
  ["Space", "Select the row"],
  ["Shift + ↑ ↓", "Select several rows"],
  ["Escape", "End a selection, close a dialog, leave the filter"],
  ["g then s c d h b", "Go to services, connections, devices, history, blocks"],
  ["?", "This help"],
];

export function showHelp() {
  return openDialog({
    title: "Keys",
    content: () => [
      h("dl", { class: "keys" }, ...KEYS.flatMap(([key, text]) => [h("dt", null, h("kbd", null, key)), h("dd", null, text)])),
      h(
        "p",
        { class: "muted" },
        "A filter has terms such as service:mqtt, client:10.0.0.0/8, idle:5m.., up:1MiB.., not:state:open; the same key twice is either of both.",
      ),
    ],
  });
}
