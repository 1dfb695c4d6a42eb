/** Closing, resetting and blocking from the view of a connection, each after a question. */
import { path, post } from "../api.js";
import { confirmAction, notify, notifyProblem, openDialog } from "../dialogs.js";
import { h } from "../dom.js";

/** @typedef {import("../types.js").Row} Row */

/** For how long clients are blocked usually; empty for as long as nobody takes it back. */
const BLOCK_TIMES = [
  ["600", "10 minutes"],
  ["3600", "1 hour"],
  ["86400", "1 day"],
  ["604800", "1 week"],
  ["", "until it is taken back"],
];

/**
 * @param {Row} row
 * @param {boolean} reset
 * @returns {Promise<boolean>} Whether it was done.
 */
export async function closeConnection(row, reset) {
  const text = reset
    ? "Both sides get a reset (RST) at once; bytes that were not delivered yet are thrown away."
    : "Bytes that were read are delivered first; then both sides are closed in good order.";
  const isWanted = await confirmAction({
    title: `${reset ? "Reset" : "Close"} connection ${row.id} of ${row.client}?`,
    text,
    label: reset ? "Reset it" : "Close it",
    danger: true,
  });
  if (!isWanted) return false;
  try {
    await post(`connections/${path(row.id)}/close`, reset ? { reset } : {});
  } catch (error) {
    notifyProblem(error);
    return false;
  }
  notify(`Connection ${row.id} is being ${reset ? "reset" : "closed"}.`, "good");
  return true;
}

/**
 * @param {Row} row
 * @returns {Promise<boolean>} Whether it was done.
 */
export async function blockClient(row) {
  const ip = String(row.client_ip);
  const scope = h("select", { id: "block-service" }, h("option", { value: row.service }, `only ${row.service}`), h("option", { value: "" }, "all services"));
  const time = h("select", { id: "block-time" }, BLOCK_TIMES.map(([value, text]) => h("option", { value }, text)));
  const reason = h("input", { id: "block-reason", type: "text", maxlength: "200", autocomplete: "off" });
  const keep = h("input", { id: "block-keep", type: "checkbox" });
  const isWanted = await openDialog({
    title: `Block ${ip}?`,
    className: "danger",
    content: (/** @type {(value: boolean) => void} */ close) => [
      h("p", null, "Its new connections are refused, and those that it has are closed."),
      h(
        "div",
        { class: "form-rows" },
        h("label", { for: "block-service" }, "At"),
        scope,
        h("label", { for: "block-time" }, "For"),
        time,
        h("label", { for: "block-reason" }, "Why"),
        reason,
        h("span"),
        h("label", { class: "check" }, keep, " keep its connections open"),
      ),
      h(
        "div",
        { class: "dialog-buttons" },
        h("button", { type: "button", autofocus: true, onclick: () => close(false) }, "Cancel"),
        h("button", { type: "button", class: "danger", onclick: () => close(true) }, "Block it"),
      ),
    ],
  });
  if (isWanted !== true) return false;
  /** @type {Record<string, any>} */
  const body = { network: ip };
  if (scope.value) body.service = scope.value;
  if (time.value) body.for_seconds = Number(time.value);
  if (reason.value.trim()) body.reason = reason.value.trim();
  if (keep.checked) body.keep_open = true;
  try {
    await post("blocks", body);
  } catch (error) {
    notifyProblem(error);
    return false;
  }
  notify(`${ip} is blocked.`, "good");
  return true;
}
