/**
 * Which columns a table shows: somebody's choice is remembered by the browser.
 */
import { openDialog } from "../dialogs.js";
import { h } from "../dom.js";
import { isUsual } from "./columns.js";

/** @typedef {import("../types.js").Column} Column */

/**
 * @param {string} listing
 * @returns {string[] | undefined} Undefined: the usual ones.
 */
export function chosenColumns(listing) {
  try {
    const names = JSON.parse(localStorage.getItem(`monconn-columns-${listing}`) ?? "null");
    return Array.isArray(names) ? names.map(String) : undefined;
  } catch {
    return undefined; // no storage, or not ours
  }
}

/**
 * Let the user choose columns.
 *
 * @param {string} listing
 * @param {Column[]} columns
 * @param {(chosen: string[] | undefined) => void} onChange Is called for each change.
 */
export async function chooseColumns(listing, columns, onChange) {
  let chosen = chosenColumns(listing);
  const boxes = columns.map((column) =>
    h("input", {
      type: "checkbox",
      checked: chosen === undefined ? isUsual(column) : chosen.includes(column.name),
      onchange: () => store(columns.filter((_, index) => boxes[index]?.checked).map((each) => each.name)),
    }),
  );
  /** @param {string[] | undefined} names */
  function store(names) {
    chosen = names;
    try {
      if (names === undefined) {
        localStorage.removeItem(`monconn-columns-${listing}`);
      } else {
        localStorage.setItem(`monconn-columns-${listing}`, JSON.stringify(names));
      }
    } catch {
      // Without storage it holds until the view is left.
    }
    onChange(names);
  }
  await openDialog({
    title: "Columns",
    className: "wide",
    content: (close) => [
      h(
        "p",
        { class: "muted" },
        "Of the usual columns, those that matter less leave where there is no room. Columns that you choose all stay.",
      ),
      h(
        "div",
        { class: "column-list" },
        ...columns.map((column, index) =>
          h("label", { class: "check" }, boxes[index], h("span", null, h("b", null, column.title), " ", h("span", { class: "muted" }, column.help))),
        ),
      ),
      h(
        "div",
        { class: "dialog-buttons" },
        h(
          "button",
          {
            type: "button",
            onclick: () => {
              store(undefined);
              columns.forEach((column, index) => {
                const box = boxes[index];
                if (box !== undefined) {
                  box.checked = isUsual(column);
                }
              });
            },
          },
          "The usual ones",
        ),
        h("button", { type: "button", class: "primary", onclick: () => close(undefined) }, "Done"),
      ),
    ],
  });
}
