/**
 * Keys that work in every view, and the help that lists them.
 */
import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";

/** How long after `g` the next key is taken as its second. */
const SEQUENCE_MILLISECONDS = 1500;

/** @type {Record<string, string>} */
const PLACES = {
  s: "services",
  c: "connections",
  l: "closed",
  d: "devices",
  h: "history",
  r: "report",
  b: "blocks",
  w: "why",
};

/** @type {[string[], string][]} */
const KEYS = [
  [["/"], "go to the filter"],
  [["↑", "↓", "Page Up", "Page Down", "Home", "End"], "move among the rows of a table"],
  [["Enter"], "open the row"],
  [["Space"], "select the row"],
  [["Shift + ↑", "Shift + ↓"], "select several rows"],
  [["Escape"], "end the selection, close a dialog, leave the filter"],
  [["g s"], "go to services; c: connections, l: closed, d: devices, h: history, r: report, b: blocks, w: why"],
  [["?"], "this help"],
];

function areOn() {
  try {
    return localStorage.getItem("monconn-keys") !== "off";
  } catch {
    return true;
  }
}

/**
 * @param {(path: string) => void} navigate
 */
export function listenForKeys(navigate) {
  let sequenceAt = 0;
  document.addEventListener("keydown", (event) => {
    const target = event.target instanceof Element ? event.target : document.body;
    const isWriting = target.closest("input:not([type=checkbox]):not([type=radio]), select, textarea") !== null;
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || isWriting || !areOn()) {
      return;
    }
    if (document.querySelector("dialog[open]") !== null || document.querySelector("#header nav") === null) {
      return;
    }
    const place = PLACES[event.key];
    if (place !== undefined && Date.now() - sequenceAt < SEQUENCE_MILLISECONDS) {
      sequenceAt = 0;
      navigate(place);
    } else if (event.key === "g") {
      sequenceAt = Date.now();
    } else if (event.key === "?") {
      void showHelp();
    } else if (event.key === "/") {
      const field = document.querySelector("main [role=search] input, main input[type=search], main .filter-input");
      if (!(field instanceof HTMLInputElement)) {
        return;
      }
      field.focus();
      field.select();
    } else {
      return;
    }
    event.preventDefault();
  });
}

export function showHelp() {
  const box = h("input", {
    type: "checkbox",
    checked: areOn(),
    onchange: () => {
      try {
        localStorage.setItem("monconn-keys", box.checked ? "on" : "off");
      } catch {
        // Without storage they stay on.
      }
    },
  });
  return openDialog({
    title: "Keys",
    className: "wide",
    content: () => [
      h(
        "dl",
        { class: "keys" },
        ...KEYS.flatMap(([keys, text]) => [h("dt", null, ...keys.flatMap((key) => [h("kbd", null, key), " "])), h("dd", null, text)]),
      ),
      h("label", { class: "check" }, box, " Single keys such as / and ? work outside of tables and fields"),
      h(
        "p",
        { class: "muted" },
        "A filter has terms such as ",
        ...["service:mqtt", "client:10.0.0.0/8", "idle:5m..", "up:1MiB..", "not:state:open"].flatMap((term) => [h("code", null, term), " "]),
        ": a row must match each; of the same key, one of them.",
      ),
    ],
  });
}
