/**
 * The page: who is logged in, which view is shown, and what surrounds it.
 *
 * An address is `#/connections?filter=service:mqtt&sort=-up`: a path, whose parts name the view and
 * a thing, and a query, which the view reads.
 */
import { Problem, del, get, whenLoggedOut } from "./api.js";
import { byId, h, replace } from "./dom.js";
import { notifyProblem } from "./dialogs.js";
import { drawHeader } from "./header.js";
import { listenForKeys } from "./keys.js";
import { live } from "./live.js";
import { mountLogin } from "./views/login.js";

/**
 * @typedef {import("./types.js").Context} Context
 * @typedef {import("./types.js").ListingColumns} ListingColumns
 * @typedef {import("./types.js").Mounted} Mounted
 * @typedef {import("./types.js").Params} Params
 * @typedef {import("./types.js").Session} Session
 * @typedef {import("./types.js").View} View
 *
 * @typedef {object} Page
 * @property {string} name Of its module in `views/`.
 * @property {string} path Its parts; one that begins with a colon is a parameter.
 * @property {string} [nav] How the navigation calls it; without it, it is not in there.
 * @property {string} [needs] What the server must have for it.
 */

/** @type {Page[]} */
export const PAGES = [
  { name: "services", path: "services", nav: "Services" },
  { name: "connections", path: "connections", nav: "Connections" },
  { name: "connection", path: "connections/:id" },
  { name: "closed", path: "closed", nav: "Closed" },
  { name: "devices", path: "devices", nav: "Devices", needs: "devices" },
  { name: "device", path: "devices/:name", needs: "devices" },
  { name: "history", path: "history", nav: "History", needs: "history" },
  { name: "report", path: "report", nav: "Report", needs: "history" },
  { name: "blocks", path: "blocks", nav: "Blocks" },
  { name: "why", path: "why", nav: "Why" },
];
const START = "services";

/** @type {Session | null} */
let session = null;
/** @type {Map<string, ListingColumns> | null} */
let columns = null;
/** @type {{page: Page, thing: string, mounted: Mounted} | null} What is shown. */
let shown = null;
let shownNumber = 0;
/** Whether the view could not be shown, and may be with the next tick. */
let hasFailed = false;
/** Whether somebody may log in, or does, and is not to be asked again who is. */
let isLoginShown = false;
/** Where to go once somebody is logged in. */
let wanted = "";

/**
 * The address of a view.
 *
 * @param {string} path
 * @param {Record<string, string | undefined>} [params]
 */
export function link(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined && value !== "") {
      query.set(name, value);
    }
  }
  // In the query, these are no delimiters, and people read them: service:mqtt, 10.0.0.0/8.
  const text = query.toString().replace(/%(3A|2F|2C|3D)/g, decodeURIComponent);
  return `#/${path}${text === "" ? "" : `?${text}`}`;
}

/**
 * @param {string} path
 * @param {Record<string, string | undefined>} [params]
 * @param {{replace?: boolean}} [options]
 */
export function navigate(path, params = {}, { replace: isReplaced = false } = {}) {
  const address = link(path, params);
  if (address === location.hash) {
    return;
  }
  if (isReplaced) {
    history.replaceState(null, "", address);
  } else {
    history.pushState(null, "", address);
  }
  route();
}

/** What the address means. */
function parseAddress() {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const parts = (path === "" ? START : path).split("/");
  const params = /** @type {Params} */ (Object.fromEntries(new URLSearchParams(query)));
  for (const page of PAGES) {
    const wanted = page.path.split("/");
    if (wanted.length !== parts.length) {
      continue;
    }
    /** @type {Params} */
    const found = {};
    const isIt = wanted.every((each, index) => {
      const part = parts[index] ?? "";
      if (!each.startsWith(":")) {
        return each === part;
      }
      found[each.slice(1)] = decoded(part);
      return part !== "";
    });
    if (isIt) {
      return { page, params: { ...params, ...found }, thing: JSON.stringify(found) };
    }
  }
  return null;
}

/** @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** @param {Mounted | undefined} mounted */
function unmount(mounted) {
  if (typeof mounted === "function") {
    mounted();
  } else {
    mounted?.unmount();
  }
}

function leave() {
  shownNumber += 1;
  hasFailed = false;
  const before = shown;
  shown = null;
  unmount(before?.mounted);
}

/** Show what the address says. */
async function route() {
  if (/^#\/?login\b/.test(location.hash)) {
    await showLogin("");
    return;
  }
  if (session === null) {
    if (isLoginShown) {
      // Or the address of a link has changed once more, as its code was taken out of it.
      wanted = location.hash === "" ? wanted : location.hash;
    } else {
      await begin();
    }
    return;
  }
  const found = parseAddress();
  if (found === null) {
    leave();
    setTitle("Nothing is here");
    drawHeader(session, "", { pages: PAGES, link, logOut });
    replace(byId("main"), h("h1", null, "Nothing is here"), h("p", null, h("a", { href: link(START) }, "Services")));
    return;
  }
  const { page, params, thing } = found;
  if (shown !== null && shown.page === page && shown.thing === thing) {
    if (typeof shown.mounted !== "function" && shown.mounted.update !== undefined) {
      const number = shownNumber;
      try {
        await shown.mounted.update(params);
      } catch (error) {
        if (number === shownNumber) {
          leave();
          cannotShow(error);
        }
      }
      return;
    }
  }
  leave();
  const number = shownNumber;
  const root = h("div", { class: `view view-${page.name}` });
  try {
    const view = await viewOf(page);
    if (number !== shownNumber) {
      return;
    }
    replace(byId("main"), root);
    setTitle(view.title);
    drawHeader(session, page.path, { pages: PAGES, link, logOut });
    const mounted = await view.mount(root, params, context(session));
    if (number === shownNumber) {
      shown = { page, thing, mounted };
      announce(view.title);
      if (document.activeElement === null || document.activeElement === document.body) {
        byId("main").focus({ preventScroll: true });
      }
      loadOthers();
    } else {
      unmount(mounted); // somebody was faster
    }
  } catch (error) {
    if (number === shownNumber) {
      cannotShow(error);
    }
  }
}

/**
 * @param {Page} page
 * @returns {Promise<View>}
 * @throws {Problem} If its script does not come.
 */
async function viewOf(page) {
  try {
    return (await import(`./views/${page.name}.js`)).default;
  } catch (error) {
    if (error instanceof TypeError && /import/.test(error.message)) {
      throw new Problem(0, "The script of this view cannot be loaded", "");
    }
    throw error;
  }
}

/**
 * Say so in the place of the view, and try again if it may be another time.
 *
 * @param {unknown} error
 */
function cannotShow(error) {
  const isPassing = error instanceof Problem && (error.isGone || error.status === 429 || error.status >= 500);
  hasFailed = isPassing;
  const text = error instanceof Error ? error.message : String(error);
  replace(
    byId("main"),
    h("h1", null, "This view cannot be shown"),
    h("p", null, text),
    isPassing ? h("p", { class: "muted" }, "This page tries again by itself.") : null,
  );
  if (!(error instanceof Problem)) {
    throw error; // a mistake of the page
  }
}

let areOthersLoaded = false;

/** Have the scripts of the other views, too: they can be shown when the server is gone. */
function loadOthers() {
  if (!areOthersLoaded) {
    areOthersLoaded = true;
    setTimeout(() => {
      for (const page of PAGES) {
        import(`./views/${page.name}.js`).catch(() => {
          areOthersLoaded = false;
        });
      }
    }, 2000);
  }
}

/** @param {string} title */
function setTitle(title) {
  document.title = `${title} · monconn`;
}

/**
 * @param {Session} session
 * @returns {Context}
 */
function context(session) {
  return {
    session,
    mayOperate: session.role === "operate",
    live,
    columns: listingColumns,
    navigate,
    link,
    announce,
    title: setTitle,
  };
}

/**
 * @param {string} listing
 * @returns {Promise<ListingColumns>}
 */
async function listingColumns(listing) {
  if (columns === null) {
    columns = new Map(Object.entries(await get("columns")));
  }
  const found = columns.get(listing);
  if (found === undefined) {
    throw new Problem(404, `The server has no listing ${listing}`, "");
  }
  return found;
}

/**
 * Say a text to screen readers.
 *
 * @param {string} text
 */
export function announce(text) {
  byId("announcer").textContent = text;
}

// -- who is logged in

async function begin() {
  const number = shownNumber;
  /** @type {Session} */
  let found;
  try {
    found = await get("session");
  } catch (error) {
    if (!(error instanceof Problem)) {
      throw error;
    }
    if (number !== shownNumber) {
      return; // a link was opened meanwhile
    }
    if (error.status === 401) {
      await showLogin("");
    } else {
      isLoginShown = false;
      replace(byId("main"), h("h1", null, error.title), h("p", null, error.detail || "This page tries again by itself."));
      setTimeout(begin, 2000);
    }
    return;
  }
  if (number !== shownNumber) {
    return;
  }
  session = found;
  isLoginShown = false;
  live.start();
  await route();
}

/** @param {string} problem Why, if somebody was logged in. */
async function showLogin(problem) {
  leave();
  if (!/^#\/?login\b/.test(location.hash)) {
    wanted = location.hash;
  }
  session = null;
  isLoginShown = true;
  columns = null;
  live.stop();
  drawHeader(null, "", { pages: [], link, logOut });
  const root = h("div", { class: "view view-login" });
  replace(byId("main"), root);
  setTitle("Log in");
  await mountLogin(root, problem, (isNew) => {
    history.replaceState(null, "", wanted === "" ? link(START) : wanted);
    wanted = "";
    if (isNew) {
      accounts?.postMessage("logged_in");
    }
    void begin();
  });
}

async function logOut() {
  try {
    await del("session");
  } catch (error) {
    notifyProblem(error);
    return;
  }
  wanted = "";
  history.replaceState(null, "", link(START));
  accounts?.postMessage("logged_out");
  await showLogin("You are logged out.");
}

// What one tab does, the others do, too: they share the cookie.
const accounts = "BroadcastChannel" in window ? new BroadcastChannel(`monconn-account ${location.pathname}`) : null;
if (accounts !== null) {
  accounts.onmessage = (event) => {
    if (event.data === "logged_out" && session !== null) {
      void showLogin("You are logged out.");
    } else if (event.data === "logged_in") {
      // Perhaps as somebody else, who may do more, or less.
      leave();
      session = null;
      live.stop();
      history.replaceState(null, "", wanted === "" ? location.hash : wanted);
      wanted = "";
      void begin();
    }
  };
}

whenLoggedOut(() => {
  if (session !== null) {
    void showLogin("Your session has ended.");
  }
});

live.on("hello", async (hello) => {
  if (session === null || hello.served === session.served) {
    return;
  }
  if (hello.version !== session.version) {
    location.reload(); // this page is that of another version
    return;
  }
  // Restarted: with other services and outputs, perhaps.
  try {
    session = /** @type {Session} */ (await get("session"));
  } catch (error) {
    notifyProblem(error);
    return;
  }
  columns = null;
  if (shown !== null) {
    drawHeader(session, shown.page.path, { pages: PAGES, link, logOut });
  }
});

// A call may fail, though the stream goes on: so each tick is a reason to try again, and not only
// that the server is back.
live.on("tick", () => {
  if (hasFailed) {
    void route();
  }
});

listenForKeys(navigate);
window.addEventListener("hashchange", () => void route());
void route();
