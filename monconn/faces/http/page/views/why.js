/**
 * What would happen to a client now: each service's answer, rule by rule, with the lines of the
 * configuration that say so.
 */
import { Problem, get } from "../api.js";
import { h, replace } from "../dom.js";
import { servicePicker, textField, whenBack } from "../pickers.js";
import { formatDuration, formatTime } from "../units.js";

/**
 * @typedef {import("../types.js").Context} Context
 * @typedef {import("../types.js").Params} Params
 * @typedef {import("../types.js").Row} Row
 */

/** What the figures of a rule count; of rates, whose tokens. */
const COUNTED = /** @type {Record<string, string>} */ ({
  per_ip_limit: "connections of this client",
  conn_limit: "connections",
  ip_limit: "clients",
  per_ip_rate: "tokens of this client",
  rate: "tokens of all clients",
});

export default { title: "Why", mount };

/**
 * @param {HTMLElement} root
 * @param {Params} params
 * @param {Context} context
 */
function mount(root, params, context) {
  let asked = 0;
  const back = whenBack(context, () => show());
  const client = textField({
    label: "Client",
    value: params.client ?? "",
    placeholder: "10.1.2.3, an id, or a device",
    help: "An address, the id or uid of a connection, or the name of a device.",
    onChange: () => {},
  });
  const service = servicePicker(context, { value: params.service ?? "", onChange: () => ask() });
  const answer = h("div", { class: "why-answer", "aria-live": "polite" });
  replace(
    root,
    h("h1", null, "What would happen to a client now?"),
    h(
      "form",
      {
        class: "toolbar",
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          ask();
        },
      },
      client.element,
      service.element,
      h("button", { type: "submit", class: "primary" }, "Ask"),
    ),
    answer,
  );

  function ask() {
    const wanted = { client: client.input.value.trim(), service: service.select.value };
    if (wanted.client === "") {
      client.setProblem("Say who: an address, the id of a connection, or a device.");
      client.input.focus();
      return;
    }
    if (wanted.client === params.client && wanted.service === (params.service ?? "")) {
      show(); // once more, as of now
    } else {
      context.navigate("why", wanted);
    }
  }

  async function show() {
    const number = (asked += 1);
    client.setProblem("");
    if (!params.client) {
      replace(
        answer,
        h("p", { class: "hint" }, "Each service says whether it would let the client in, and which rule decides, ",
          "with the line of the configuration that it stands in."),
      );
      return;
    }
    answer.setAttribute("aria-busy", "true");
    try {
      const { rows } = await get("why", { client: params.client, service: params.service });
      if (number === asked) {
        replace(answer, ...rows.map((/** @type {Row} */ row) => serviceAnswer(row, context)));
      }
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      back.missed(error);
      if (number === asked) {
        replace(answer);
        client.setProblem(error.message);
      }
    } finally {
      answer.removeAttribute("aria-busy");
    }
  }

  /** @param {Params} wanted */
  function update(wanted) {
    params = wanted;
    client.input.value = params.client ?? "";
    service.update(params.service ?? "");
    show();
  }

  show();
  if (!params.client) {
    client.input.focus();
  }
  return {
    unmount() {
      asked += 1;
      back.off();
    },
    update,
  };
}

/**
 * @param {Row} row
 * @param {Context} context
 */
function serviceAnswer(row, context) {
  const [kind, text] = outcome(row);
  const who = row.device ? `${row.device} (${row.ip})` : row.ip;
  const rules = /** @type {Row[]} */ (row.rules);
  return h(
    "section",
    { class: "card", "aria-label": `Answer of ${row.service}` },
    h("h2", null, row.service, " ", h("span", { class: `outcome ${kind}` }, text)),
    h(
      "dl",
      { class: "fact-list" },
      ...fact("Client", who, row.client === row.ip ? "" : `, which rules count as ${row.client}`),
      ...fact("Service", row.state),
      ...fact("Connected", ...connected(row, context)),
      ...(row.would_refuse.length > 0 ? fact("Dry run", `rules that only count would refuse it: ${row.would_refuse.join(", ")}`) : []),
      ...(row.unreadable_files ?? []).flatMap((/** @type {string} */ each) =>
        fact("Block files", `${each}: what it listed before is in force`),
      ),
    ),
    rules.length === 0 && !row.auto_block
      ? h("p", { class: "hint" }, "No rule is set.")
      : h(
          "table",
          { class: "plain why-rules" },
          h("caption", { class: "visually-hidden" }, `Rules of ${row.service}, in the order in which they are asked`),
          h(
            "thead",
            null,
            h("tr", null, ...["Rule", "Says", "Used", "Written in"].map((each) => h("th", { scope: "col" }, each))),
          ),
          h("tbody", null, ...rules.map((rule) => ruleRow(rule, row)), row.auto_block ? autoBlockRow(row.auto_block) : null),
        ),
  );
}

/**
 * @param {string} name
 * @param {...import("../dom.js").Child} value
 */
function fact(name, ...value) {
  return [h("dt", null, name), h("dd", null, ...value)];
}

/**
 * @param {Row} row
 * @returns {["good" | "warning" | "bad", string]}
 */
function outcome(row) {
  const { by, refusal } = row;
  if (row.outcome === "enters") {
    return ["good", "would enter"];
  }
  const isState = ["draining", "stopping", "paused"].includes(by);
  const why = isState ? `the service is ${by}` : by;
  if (row.outcome === "refused") {
    return ["bad", `would be refused: ${why}${refusal === by ? "" : ` (${refusal})`}`];
  }
  const after = refusal === null ? "enter" : `be refused (${refusal})`;
  return ["warning", `would wait in the accept queue (${why}), and then ${after}`];
}

/**
 * @param {Row} row
 * @param {Context} context
 * @returns {import("../dom.js").Child[]}
 */
function connected(row, context) {
  const count = /** @type {number} */ (row.connections);
  if (count === 0) {
    return ["not now"];
  }
  const ids = /** @type {number[]} */ (row.ids);
  const links = ids.flatMap((id, index) => [index ? ", " : "", h("a", { href: context.link(`connections/${id}`) }, id)]);
  const more = count > ids.length ? `, and ${count - ids.length} more` : "";
  const since = formatTime(row.since);
  return [`${count} connection${count === 1 ? "" : "s, the oldest"} since ${since}: id `, ...links, more];
}

/**
 * @param {Row} rule
 * @param {Row} row
 */
function ruleRow(rule, row) {
  return h(
    "tr",
    { class: rule.refuses && !rule.dry_run ? "bad" : "" },
    h("th", { scope: "row" }, h("code", null, rule.rule)),
    h("td", null, says(rule, row)),
    h("td", null, ...used(rule)),
    h("td", null, ...place(rule)),
  );
}

/**
 * @param {Row} rule
 * @param {Row} row
 */
function says(rule, row) {
  const details = [];
  if (rule.rule === "block") {
    details.push(rule.block ? blockText(rule.block) : "no network has it");
    if (rule.unblocked) {
      details.push(`but an operator has unblocked ${rule.unblocked}`);
    }
  } else if (rule.rule === "allow") {
    details.push(rule.network ? `${rule.network} has it` : "no network has it");
  }
  if (rule.wait_seconds) {
    details.push(`the next token in ${formatDuration(rule.wait_seconds)}`);
  }
  const waits = row.outcome === "waits" && rule.rule !== row.refusal && ["conn_limit", "rate"].includes(rule.rule);
  const verdict = !rule.refuses
    ? rule.dry_run
      ? "lets it in (dry run)"
      : "lets it in"
    : rule.dry_run
      ? "would refuse it, but only counts (dry run)"
      : waits
        ? "is full: clients wait"
        : "refuses it";
  return details.length > 0 ? `${verdict}: ${details.join(", ")}` : verdict;
}

/** @param {Row} block */
function blockText(block) {
  const by = block.by ? ` by ${block.by}` : "";
  const since = block.since ? ` since ${formatTime(block.since)}` : "";
  const until = block.until ? ` until ${formatTime(block.until)}` : "";
  return `${block.network} is blocked${by}${since}${until}${block.reason ? ` (${block.reason})` : ""}`;
}

/**
 * @param {Row} rule
 * @returns {import("../dom.js").Child[]}
 */
function used(rule) {
  if (rule.used === undefined || rule.limit === undefined) {
    return ["–"];
  }
  const amount = Math.round(rule.used * 10) / 10;
  const what = COUNTED[rule.rule] ?? "";
  const rate = rule.rate ? ` (${rule.rate})` : "";
  return [
    h("meter", { min: 0, max: rule.limit || 1, value: Math.min(amount, rule.limit || 1), "aria-hidden": true }),
    ` ${amount} of ${rule.limit} ${what}${rate}`,
  ];
}

/**
 * @param {Row} written
 * @returns {import("../dom.js").Child[]}
 */
function place(written) {
  if (!written.origin) {
    return written.rule === "block" && !written.block ? ["–"] : ["set while it runs"];
  }
  return [h("code", null, written.origin), written.is_default ? " (defaults)" : ""];
}

/** @param {Row} settings */
function autoBlockRow(settings) {
  const within = formatDuration(settings.within_seconds);
  return h(
    "tr",
    null,
    h("th", { scope: "row" }, h("code", null, "auto_block")),
    h("td", null, `blocks for ${formatDuration(settings.for_seconds)} after ${settings.limit} within ${within} of: ${settings.of.join(", ")}`),
    h(
      "td",
      null,
      h("meter", { min: 0, max: settings.limit, value: Math.min(settings.used, settings.limit), "aria-hidden": true }),
      ` ${settings.used} of ${settings.limit}`,
    ),
    h("td", null, ...place(settings)),
  );
}
