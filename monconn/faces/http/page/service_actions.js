/**
 * The actions that a service offers to those who may operate: a slot of the view of services; and
 * the reload of the configuration.
 */
import { Problem, post } from "./api.js";
import { h } from "./dom.js";
import { confirmAction, notify, notifyProblem, openDialog } from "./dialogs.js";
import { formatCount, formatDuration } from "./units.js";

/**
 * @typedef {import("./types.js").Context} Context
 * @typedef {import("./types.js").Row} Row
 */

/** @type {[number, string][]} Seconds and their words. */
const PAUSES = [
  [60, "for 1 minute"],
  [300, "for 5 minutes"],
  [900, "for 15 minutes"],
  [3600, "for 1 hour"],
  [0, "until somebody resumes it"],
];
/** @type {[number, string][]} */
const SPREADS = [
  [0, "let them go on"],
  [60, "end them evenly over 1 minute"],
  [300, "end them evenly over 5 minutes"],
  [900, "end them evenly over 15 minutes"],
  [3600, "end them evenly over 1 hour"],
];

/**
 * @param {import("./types.js").Row} service Its row, as it is now.
 * @param {import("./types.js").Context} context
 * @returns {import("./dom.js").Children} What is put into its card; it is made once for each state
 *   of the service.
 */
export function serviceActions(service, context) {
  if (!context.mayOperate || service.state === "stopping") {
    return [];
  }
  const name = String(service.sid);
  const isRunning = service.state === "running";
  const row = () => context.live.tick?.services.find((each) => each.sid === name) ?? service;
  return [
    isRunning ? null : button("Resume", name, () => resume(row())),
    service.state === "paused" ? null : button("Pause…", name, () => pause(row())),
    service.state === "draining" ? null : button("Drain…", name, () => drain(row())),
  ];
}

/**
 * @param {string} text
 * @param {string} name
 * @param {() => Promise<void>} action
 */
function button(text, name, action) {
  const label = `${text.replace("…", "")} ${name}`;
  return h("button", { type: "button", "aria-label": label, onclick: () => action().catch(notifyProblem) }, text);
}

/** @param {number} count */
function connections(count) {
  return `${formatCount(count)} connection${count === 1 ? "" : "s"}`;
}

/**
 * Asks for one of some choices, or anything else in seconds.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {string} options.text What will happen.
 * @param {string} options.label Of the button.
 * @param {string} options.question What is chosen.
 * @param {[number, string][]} options.choices
 * @returns {Promise<number | undefined>} Seconds; undefined if it was left.
 */
function askSeconds({ title, text, label, question, choices }) {
  return openDialog({
    title,
    content: (/** @type {(value: number) => void} */ close) => {
      const select = h("select", { id: "action-seconds", autofocus: true }, ...choices.map(([value, words]) => h("option", { value }, words)));
      const submit = (/** @type {Event} */ event) => {
        event.preventDefault();
        close(Number(select.value));
      };
      return h(
        "form",
        { class: "dialog-form", onsubmit: submit },
        h("p", null, text),
        h("div", { class: "picker" }, h("label", { for: "action-seconds" }, question), select),
        h(
          "div",
          { class: "dialog-buttons" },
          h("button", { type: "button", dataset: { cancel: "" }, onclick: (/** @type {Event} */ event) => cancel(event) }, "Cancel"),
          h("button", { type: "submit", class: "primary" }, label),
        ),
      );
    },
  });
}

/** @param {Event} event */
function cancel(event) {
  /** @type {HTMLElement} */ (event.target).closest("dialog")?.close();
}

/** @param {Row} service */
async function pause(service) {
  const seconds = await askSeconds({
    title: `Pause ${service.sid}?`,
    text:
      `Nothing is read from its ${connections(service.connections)}, and nobody is accepted: new clients wait in the ` +
      "accept queue. No connection is ended by it; what they send waits in the sockets.",
    label: "Pause",
    question: "Pause",
    choices: PAUSES,
  });
  if (seconds === undefined) {
    return;
  }
  const done = await post("service/pause", { name: service.sid, ...(seconds > 0 ? { seconds } : {}) });
  const until = seconds > 0 ? ` for ${formatDuration(seconds)}` : " until it is resumed";
  notify(
    done.changed ? `${service.sid} is paused${until}: ${connections(done.connections)} wait.` : `${service.sid} was paused already.`,
    "good",
  );
}

/** @param {Row} service */
async function resume(service) {
  const text =
    service.state === "draining"
      ? `New clients are let in again, and its ${connections(service.connections)} are not ended any more by draining.`
      : `Its ${connections(service.connections)} go on, and those who wait in the accept queue are let in.`;
  if (!(await confirmAction({ title: `Resume ${service.sid}?`, text, label: "Resume" }))) {
    return;
  }
  const done = await post("service/resume", { name: service.sid });
  notify(done.changed ? `${service.sid} runs again.` : `${service.sid} was running already.`, "good");
}

/** @param {Row} service */
async function drain(service) {
  const seconds = await askSeconds({
    title: `Drain ${service.sid}?`,
    text: `New clients are refused until the service is resumed. It has ${connections(service.connections)} now.`,
    label: "Drain",
    question: "Its connections",
    choices: SPREADS,
  });
  if (seconds === undefined) {
    return;
  }
  const done = await post("service/drain", { name: service.sid, ...(seconds > 0 ? { spread: seconds } : {}) });
  const end = seconds > 0 ? `are ended over ${formatDuration(seconds)}` : "go on";
  notify(
    done.changed ? `${service.sid} drains: ${connections(done.connections)} ${end}.` : `${service.sid} was draining already.`,
    "good",
  );
}

// -- reload

/**
 * A button that shows what a reload of the configuration would change, and does it if asked.
 *
 * @param {Context} context
 * @returns {HTMLElement | null} None for those who may not.
 */
export function reloadButton(context) {
  if (!context.mayOperate || context.session.has.reload === false) {
    return null;
  }
  return h("button", { type: "button", onclick: () => reload() }, "Reload configuration…");
}

async function reload() {
  /** @type {Row} */
  let wanted;
  try {
    wanted = await post("reload", { dry_run: true });
  } catch (error) {
    await showFault(error);
    return;
  }
  const isNothing = isSame(wanted);
  const answer = await openDialog({
    title: isNothing ? "Nothing to reload" : "Reload the configuration?",
    content: (/** @type {(value: boolean) => void} */ close) => [
      ...changesOf(wanted),
      h(
        "div",
        { class: "dialog-buttons" },
        h("button", { type: "button", autofocus: isNothing, onclick: () => close(false) }, isNothing ? "Close" : "Cancel"),
        isNothing
          ? null
          : h("button", { type: "button", class: "primary", autofocus: true, onclick: () => close(true) }, "Reload"),
      ),
    ],
  });
  if (answer !== true) {
    return;
  }
  try {
    const done = await post("reload");
    notify(isSame(done) ? "Nothing was different." : `The configuration is reloaded: ${brief(done)}.`, "good");
  } catch (error) {
    await showFault(error);
  }
}

/** @param {Row} result */
function isSame(result) {
  const inForce = changes(result).filter((each) => each.holds !== "restart");
  return result.added.length + result.removed.length + inForce.length === 0;
}

/**
 * @param {Row} result
 * @returns {Row[]}
 */
function changes(result) {
  return result.changes ?? [];
}

/** @param {Row} result */
function brief(result) {
  const inForce = changes(result).filter((each) => each.holds !== "restart").length;
  return [
    result.added.length > 0 ? `added ${result.added.join(", ")}` : "",
    result.removed.length > 0 ? `removed ${result.removed.join(", ")}` : "",
    inForce > 0 ? `${inForce} setting${inForce === 1 ? "" : "s"} changed` : "",
  ]
    .filter((each) => each !== "")
    .join(", ");
}

/** @type {[string, string][]} */
const HOLDS = [
  ["at once", "Changed at once, for live connections, too"],
  ["new connections", "Changed for new connections"],
  ["restart", "Not changed: these need a restart"],
];

/**
 * What a reload would change, in words.
 *
 * @param {Row} result
 * @returns {HTMLElement[]}
 */
function changesOf(result) {
  /** @type {HTMLElement[]} */
  const parts = [h("p", { class: "muted" }, "Read from ", h("code", null, result.file))];
  if (result.added.length > 0) {
    parts.push(h("p", null, `New services: ${result.added.join(", ")}`));
  }
  if (result.removed.length > 0) {
    parts.push(
      h("p", { class: "warn" }, `Removed services: ${result.removed.join(", ")}. No more clients enter; live connections have their wait_timeout.`),
    );
  }
  for (const [holds, title] of HOLDS) {
    const found = changes(result).filter((each) => each.holds === holds);
    if (found.length > 0) {
      parts.push(h("h3", null, title), h("ul", { class: "changes" }, ...found.map(changeItem)));
    }
  }
  parts.push(...(result.notes ?? []).map((/** @type {string} */ note) => h("p", null, `Note: ${note}`)));
  if (isSame(result)) {
    parts.push(h("p", null, changes(result).length > 0 ? "Nothing else is different from what runs." : "Nothing is different from what runs."));
  }
  return parts;
}

/** @param {Row} change */
function changeItem(change) {
  const name = change.key === change.section ? change.section : `${change.section}.${change.key}`;
  return h(
    "li",
    null,
    h("code", null, name),
    ": ",
    h("del", null, change.old),
    " → ",
    h("ins", null, change.new),
    change.place ? h("span", { class: "muted" }, ` (${change.place})`) : null,
  );
}

/**
 * Why the configuration cannot be read, with each of its problems: too much for a notice.
 *
 * @param {unknown} error
 */
async function showFault(error) {
  if (!(error instanceof Problem)) {
    throw error;
  }
  await openDialog({
    title: "Nothing is reloaded",
    className: "danger",
    content: (/** @type {(value: boolean) => void} */ close) => [
      h("p", null, "What runs goes on as it is."),
      h("pre", { class: "command" }, ...error.message.split("\n").flatMap((line, index) => (index ? [h("br"), line] : [line]))),
      h("div", { class: "dialog-buttons" }, h("button", { type: "button", autofocus: true, onclick: () => close(true) }, "Close")),
    ],
  });
}
