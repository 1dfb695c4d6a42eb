/** What a word of a connection means, as the server explains it, and what to look at next. */
import { get, path } from "../api.js";
import { h, replace } from "../dom.js";

/** @typedef {import("../types.js").Row} Row */

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
export function filledIn(command, row) {
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
 * @param {Element} root
 * @param {Row} explanation
 * @param {Row} row The connection.
 * @param {string} title
 */
export function drawExplanation(root, explanation, row, title) {
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
            steps.map((step) =>
              h("li", null, step.text, step.command ? h("code", { class: "step-command" }, filledIn(String(step.command), row)) : null),
            ),
          ),
        )
      : null,
  );
}
