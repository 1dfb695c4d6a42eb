/**
 * What operators do to connections: closing them, and blocking clients. Each asks before.
 */
import { get, post } from "./api.js";
import { confirmAction, notify, notifyProblem, openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { live } from "./live.js";
import { formatCount } from "./units.js";

/** How many of what is concerned are named. */
const NAMED = 6;
/** Of how many clients at most it is asked what a block would end. */
const MOST_CHECKED = 20;

/** @typedef {import("./types.js").Row} Row */

/**
 * @param {number} count
 * @param {string} what In the singular.
 */
export function counted(count, what) {
  return `${formatCount(count)} ${what}${count === 1 ? "" : "s"}`;
}

/**
 * Close these connections, if the user says so.
 *
 * @param {Row[]} rows
 * @param {string} [served] The token of the server that the rows are of; the one that runs now if
 *   left out.
 * @returns {Promise<boolean>} Whether it was done.
 */
export async function closeConnections(rows, served = live.hello?.served) {
  const reset = resetBox();
  const isMeant = await confirmAction({
    title: `Close ${counted(rows.length, "connection")}?`,
    text: [
      namedList(rows.map((row) => `${row.id} · ${row.client} · ${row.service}`)),
      h("p", { class: "muted" }, "Both sides are ended; the reason is operator. Clients may connect again."),
      reset.element,
    ],
    label: "Close",
    danger: true,
  });
  if (!isMeant) {
    return false;
  }
  try {
    // After a restart, an id is that of another connection.
    if ((await get("session")).served !== served) {
      notify("monconn was restarted meanwhile: these connections have ended", "warning");
      return false;
    }
  } catch (error) {
    notifyProblem(error);
    return false;
  }
  return close({ ids: rows.map((row) => Number(row.id)), reset: reset.isChosen() });
}

/**
 * Close all connections that a filter finds, if the user says so.
 *
 * @param {string} filter
 * @returns {Promise<boolean>} Whether it was done.
 */
export async function closeMatching(filter) {
  let found;
  try {
    found = await post("connections/close", { filter, dry_run: true });
  } catch (error) {
    notifyProblem(error);
    return false;
  }
  const count = countOf(found);
  if (count === 0) {
    notify("No live connection matches the filter");
    return false;
  }
  const reset = resetBox();
  const isMeant = await confirmAction({
    title: count === 1 ? "Close the connection that matches?" : `Close all ${counted(count, "connection")} that match?`,
    text: [
      h("pre", { class: "command" }, filter),
      h("p", { class: "muted" }, "Both sides are ended; the reason is operator. Clients may connect again."),
      reset.element,
    ],
    label: `Close ${formatCount(count)}`,
    danger: true,
  });
  return isMeant && close({ filter, reset: reset.isChosen() });
}

/** @param {Record<string, any>} body */
async function close(body) {
  if (!body.reset) {
    delete body.reset;
  }
  try {
    const done = await post("connections/close", body);
    notify(`Closed ${counted(countOf(done), "connection")}`, "good");
    return true;
  } catch (error) {
    notifyProblem(error);
    return false;
  }
}

/** @param {any} answer */
function countOf(answer) {
  return Number(answer?.closed ?? 0);
}

/**
 * Block clients, if the user says so.
 *
 * @param {string[]} networks Addresses or networks.
 * @param {{service?: string}} [options] The service at which; all if left out.
 * @returns {Promise<boolean>} Whether it was done.
 */
export async function blockClients(networks, { service } = {}) {
  const wanted = [...new Set(networks)];
  let ended = "Their live connections will be ended, unless you leave them open.";
  if (wanted.length <= MOST_CHECKED) {
    let count = 0;
    try {
      for (const network of wanted) {
        count += countOf(await post("blocks", { network, ...(service === undefined ? {} : { service }), dry_run: true }));
      }
    } catch (error) {
      notifyProblem(error);
      return false;
    }
    ended = count === 0 ? "None of them is connected now." : `${counted(count, "live connection")} will be ended, unless you leave them open.`;
  }
  const duration = h(
    "select",
    { id: "block-for" },
    ...[
      ["", "until it is unblocked"],
      ["600", "10 minutes"],
      ["3600", "1 hour"],
      ["86400", "1 day"],
      ["604800", "7 days"],
    ].map(([value, text]) => h("option", { value, selected: value === "3600" }, text)),
  );
  const reason = h("input", { type: "text", id: "block-reason", maxlength: "200", autocomplete: "off" });
  const keep = h("input", { type: "checkbox", id: "block-keep" });
  const isMeant = await openDialog({
    title: `Block ${counted(wanted.length, "client")}${service === undefined ? "" : ` at ${service}`}?`,
    className: "danger",
    content: (/** @type {(value: boolean) => void} */ done) => [
      namedList(wanted),
      h(
        "p",
        { class: "muted" },
        service === undefined ? "They are refused at all services." : `They are refused at ${service}.`,
      ),
      h("p", { class: "warn" }, ended),
      h(
        "div",
        { class: "form" },
        h("label", { for: "block-for" }, "For how long"),
        duration,
        h("label", { for: "block-reason" }, "Why"),
        reason,
        h("span", null),
        h("label", { class: "check" }, keep, " Leave their connections open"),
      ),
      h(
        "div",
        { class: "dialog-buttons" },
        h("button", { type: "button", onclick: () => done(false) }, "Cancel"),
        h("button", { type: "button", class: "danger", onclick: () => done(true) }, "Block"),
      ),
    ],
  });
  if (isMeant !== true) {
    return false;
  }
  let blocked = 0;
  for (const network of wanted) {
    try {
      await post("blocks", {
        network,
        ...(service === undefined ? {} : { service }),
        ...(duration.value === "" ? {} : { for_seconds: Number(duration.value) }),
        ...(reason.value.trim() === "" ? {} : { reason: reason.value.trim() }),
        ...(keep.checked ? { keep_open: true } : {}),
      });
      blocked += 1;
    } catch (error) {
      notifyProblem(error);
      break;
    }
  }
  if (blocked > 0) {
    notify(`Blocked ${counted(blocked, "client")}`, "good");
  }
  return blocked === wanted.length;
}

function resetBox() {
  const box = h("input", { type: "checkbox" });
  return {
    element: h("label", { class: "check" }, box, " Reset them (RST) instead of ending them in good order"),
    isChosen: () => box.checked,
  };
}

/** @param {string[]} names */
function namedList(names) {
  const more = names.length - NAMED;
  return h(
    "ul",
    { class: "named" },
    ...names.slice(0, NAMED).map((name) => h("li", null, name)),
    more > 0 ? h("li", { class: "muted" }, `and ${formatCount(more)} more`) : null,
  );
}
