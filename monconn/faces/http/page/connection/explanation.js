/** What a word of a connection means, as the server explains it, and what to look at next. */
import { get, path } from "../api.js";
import { h, replace } from "../dom.js";

/**
 * @typedef {import("../types.js").Row} Row
 * @typedef {import("../types.js").Context} Context
 */

/** Answers of the server by word: they never change while it runs. */
const known = new Map();

/**
 * @param {string} word
 * @param {string} kind Of several that a word has.
 * @returns {Promise<Row | null>} None if the server knows no such word.
 */
export async function explain(word, kind) {
  if (!known.has(word)) {
    const { explanations } = await get(`words/${path(word)}`);
    known.set(word, explanations);
  }
  /** @type {Row[]} */
  const explanations = known.get(word);
  return explanations.find((each) => each.kind === kind) ?? explanations[0] ?? null;
}

/**
 * A command with the names of this connection instead of `ID`, `IP` and others; what a shell would
 * take for something else stays as it is.
 *
 * @param {string} command
 * @param {Row} row
 */
function filledIn(command, row) {
  const name = row.facts?.mqtt_client_id;
  /** @type {Record<string, unknown>} */
  const words = {
    ID: row.id,
    IP: row.client_ip,
    SERVICE: row.service,
    "CLIENT-ID": name,
    DEVICE: name ?? row.client_ip,
    "BACKEND-IP": String(row.backend ?? "").replace(/^\[?(.+?)\]?:\d+$/, "$1"),
  };
  return command.replace(/\b(BACKEND-IP|IP|CLIENT-ID|ID|DEVICE|SERVICE)\b/g, (found) => {
    const word = String(words[found] ?? "");
    const isAddress = found.endsWith("IP");
    return (isAddress ? /^[0-9a-fA-F][0-9a-fA-F.:]+$/ : /^[\w.:][\w.:-]*$/).test(word) ? word : found;
  });
}

/**
 * Where the page shows what a command would; undefined if it does nowhere.
 *
 * @param {string} command
 * @param {Context} context
 * @returns {string | undefined}
 */
export function placeOf(command, { link, session }) {
  if (/\b(BACKEND-IP|IP|CLIENT-ID|ID|DEVICE|SERVICE)\b|['"]/.test(command)) return undefined;
  const [, verb = "", rest = ""] = /^monconn (\w+) ?(.*)$/.exec(command) ?? [];
  const since = / ?--since (\w+)/.exec(rest)?.[1];
  const sort = / ?--sort (\w+)/.exec(rest)?.[1];
  const isOf = (/** @type {string} */ flag) => rest.includes(flag);
  const filter = rest.replace(/--(since|sort) \w+|--(events|closed)/g, " ").replace(/\s+/g, " ").trim();
  if (verb === "device" && session.has.devices) return link(`devices/${encodeURIComponent(rest)}`);
  if (verb === "why") return link("why", { client: rest });
  if (verb === "stats") return link("services");
  if (verb === "list") return link(isOf("--closed") ? "closed" : "connections", { filter, sort });
  if (verb === "history" && session.has.history) {
    return link("history", { kind: isOf("--events") ? "events" : "", filter, since });
  }
  return undefined;
}

/**
 * @param {Element} root
 * @param {Row} explanation
 * @param {Row} row The connection.
 * @param {string} title
 * @param {Context} context
 */
export function drawExplanation(root, explanation, row, title, context) {
  /** @type {any[]} */
  const causes = Array.isArray(explanation.causes) ? explanation.causes : [];
  /** @type {any[]} */
  const steps = Array.isArray(explanation.next) ? explanation.next : [];
  replace(
    root,
    h("h2", null, title),
    h("p", { class: "explained" }, h("code", null, explanation.word), ": ", explanation.short),
    row.detail ? h("p", { class: "explained" }, h("strong", null, "Detail: "), row.detail) : null,
    explanation.meaning ? h("p", null, explanation.meaning) : null,
    causes.length
      ? h("details", null, h("summary", null, "What usually causes it"), h("ul", null, causes.map((each) => h("li", null, each))))
      : null,
    steps.length
      ? h(
          "div",
          null,
          h("h3", null, "What to look at next"),
          h(
            "ul",
            null,
            steps.map((step) => h("li", null, step.text, step.command ? commandOf(filledIn(String(step.command), row), context) : null)),
          ),
        )
      : null,
  );
}

/**
 * A command, which leads to where the page shows the same.
 *
 * @param {string} command
 * @param {Context} context
 */
function commandOf(command, context) {
  const place = placeOf(command, context);
  const code = h("code", null, command);
  return h("span", { class: "step-command" }, place === undefined ? code : h("a", { href: place }, code));
}
