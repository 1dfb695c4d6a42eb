/**
 * Questions before actions, and notices of what has happened.
 */
import { byId, h } from "./dom.js";
import { Problem } from "./api.js";

/** How long a notice stays; one of an error stays until it is closed. */
const NOTICE_MILLISECONDS = 8000;

/** The most notices at once: beyond, the oldest leaves. */
const MOST_NOTICES = 5;

/** @typedef {import("./dom.js").Children} Children */

/**
 * A modal dialog with contents of one's own.
 *
 * @template T
 * @param {object} options
 * @param {string} options.title
 * @param {(close: (value: T) => void) => Children} options.content Makes what is in it; `close`
 *   ends the dialog with a value.
 * @param {string} [options.className]
 * @returns {Promise<T | undefined>} Undefined if it was left by Escape or its button.
 */
export function openDialog({ title, content, className = "" }) {
  return new Promise((resolve) => {
    /** @type {T | undefined} */
    let result;
    const before = document.activeElement;
    const dialog = h("dialog", { class: `dialog ${className}`, "aria-labelledby": "dialog-title" });
    const close = (/** @type {T} */ value) => {
      result = value;
      dialog.close();
    };
    const children = content(close);
    dialog.append(
      h(
        "div",
        { class: "dialog-head" },
        h("h2", { id: "dialog-title" }, title),
        h("button", { type: "button", class: "icon-button", "aria-label": "Close", onclick: () => dialog.close() }, "✕"),
      ),
      h("div", { class: "dialog-body" }, ...(Array.isArray(children) ? children : [children])),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before instanceof HTMLElement && before.isConnected) {
        before.focus();
      }
      resolve(result);
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) {
        dialog.close(); // the backdrop
      }
    });
    byId("dialogs").append(dialog);
    dialog.showModal();
  });
}

/**
 * Ask before an action.
 *
 * @param {object} options
 * @param {string} options.title What will be done, as a question: "Close 3 connections?"
 * @param {Children} [options.text] What it means.
 * @param {string} [options.label] Of the button that does it.
 * @param {boolean} [options.danger] Whether it cannot be undone: "no" has the focus then.
 * @returns {Promise<boolean>}
 */
export async function confirmAction({ title, text = "", label = "Do it", danger = false }) {
  const answer = await openDialog({
    title,
    className: danger ? "danger" : "",
    content: (/** @type {(value: boolean) => void} */ close) => [
      h("div", { class: "dialog-text" }, ...(Array.isArray(text) ? text : [text])),
      h(
        "div",
        { class: "dialog-buttons" },
        h("button", { type: "button", autofocus: danger, onclick: () => close(false) }, "Cancel"),
        h(
          "button",
          { type: "button", class: danger ? "danger" : "primary", autofocus: !danger, onclick: () => close(true) },
          label,
        ),
      ),
    ],
  });
  return answer === true;
}

/**
 * Tell what has happened; screen readers are told, too.
 *
 * @param {string} text
 * @param {"info" | "good" | "warning" | "error"} [kind]
 */
export function notify(text, kind = "info") {
  const place = byId("notices");
  const notice = h(
    "div",
    { class: `notice ${kind}` },
    h("span", { class: "notice-text" }, kind === "error" ? `Failed: ${text}` : text),
    h("button", { type: "button", class: "icon-button", "aria-label": "Dismiss", onclick: () => notice.remove() }, "✕"),
  );
  place.append(notice);
  while (place.children.length > MOST_NOTICES) {
    place.firstElementChild?.remove();
  }
  if (kind !== "error") {
    setTimeout(() => notice.remove(), NOTICE_MILLISECONDS);
  }
}

/**
 * Tell that a call has failed; anything but a `Problem` is a mistake of this page, and is thrown
 * on.
 *
 * @param {unknown} error
 */
export function notifyProblem(error) {
  if (error instanceof DOMException && error.name === "AbortError") {
    return;
  }
  if (!(error instanceof Problem)) {
    throw error;
  }
  const details = error.errors.map((each) => `${each.name}: ${each.detail}`);
  notify([error.detail || error.title, ...details].join(" · "), "error");
}
