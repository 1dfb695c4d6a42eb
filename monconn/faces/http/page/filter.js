/**
 * A field for the filter language, which completes keys and values, and marks the term that the
 * server does not understand.
 */
import { h, printable, replace, setAttribute, setText } from "./dom.js";

/** How long after the last key the filter is used. */
const TYPING_MILLISECONDS = 350;
/** How long after the last key an error is shown: a term that is half typed is no mistake. */
const ERROR_MILLISECONDS = 900;
const MOST_OPTIONS = 12;

/** What is put behind the colon to begin with, of kinds that have no closed list of values. */
const EXAMPLES = /** @type {Record<string, [string, string][]>} */ ({
  seconds: [
    ["10s..", "at least 10 seconds"],
    ["5m..", "at least 5 minutes"],
    ["..1m", "at most a minute"],
  ],
  bytes: [
    ["1MiB..", "at least 1 MiB"],
    ["..1KiB", "at most 1 KiB"],
  ],
  rate: [
    ["10KiB..", "at least 10 KiB a second"],
    ["1MiB..", "at least 1 MiB a second"],
  ],
  network: [
    ["10.0.0.0/8", "a network"],
    ["10.0.0.5", "an address"],
  ],
  count: [["1..", "at least 1"]],
  port: [["443", "this port"]],
});
const KINDS = /** @type {Record<string, string>} */ ({
  text: "part of a text",
  choice: "one of a list",
  network: "an address or a network",
  seconds: "a range of time",
  bytes: "a range of sizes",
  rate: "a range of rates",
  count: "a number or a range",
  port: "a port",
});

/**
 * @typedef {import("./types.js").FilterKey} FilterKey
 *
 * @typedef {object} Span A term of the text.
 * @property {number} start
 * @property {number} end
 * @property {string} text
 *
 * @typedef {object} Option
 * @property {string} text What is put in the place of the term.
 * @property {string} label
 * @property {string} help
 * @property {boolean} isWhole Whether the term is complete with it.
 */

/**
 * The terms of a text: separated by blanks outside of quotes.
 *
 * @param {string} text
 * @returns {Span[]}
 */
function termsOf(text) {
  const spans = [];
  for (const found of text.matchAll(/(?:\\.|"(?:\\.|[^"\\])*"?|'[^']*'?|[^\s"'\\])+/gs)) {
    spans.push({ start: found.index, end: found.index + found[0].length, text: found[0] });
  }
  return spans;
}

/**
 * Where in the text the problem is, if that is known.
 *
 * @param {string} text
 * @param {{detail: string, position?: number, text?: string, term?: number}} error
 * @returns {Span | undefined}
 */
export function placeOf(text, error) {
  const terms = termsOf(text);
  if (typeof error.position === "number") {
    return terms.find((term) => term.start <= /** @type {number} */ (error.position) && term.end > /** @type {number} */ (error.position));
  }
  const number = error.term ?? Number(/ in term (\d+) /.exec(error.detail)?.[1] ?? 0);
  return terms[number - 1] ?? (terms.length === 1 ? terms[0] : undefined);
}

let made = 0;

export class FilterField {
  /**
   * @param {object} options
   * @param {string} options.label
   * @param {FilterKey[]} options.keys
   * @param {string} options.value
   * @param {(text: string, isDone: boolean) => void} options.onFilter Another filter is meant;
   *   `isDone` unless somebody still types.
   * @param {Record<string, () => string[]>} [options.values] Values of keys that the server's list
   *   does not have: names of services.
   * @param {() => void} [options.onLeave] Is called by Escape: gives the focus to what is filtered.
   * @param {string} [options.placeholder]
   */
  constructor({ label, keys, value, onFilter, onLeave, values = {}, placeholder = "service:mqtt idle:5m.." }) {
    made += 1;
    const id = `filter-${made}`;
    this.keys = keys;
    this.values = values;
    this.onFilter = onFilter;
    this.onLeave = onLeave;
    /** @type {Option[]} */
    this.options = [];
    this.chosen = -1;
    this.timer = 0;
    this.errorTimer = 0;
    this.given = value;
    this.mirror = h("div", { class: "filter-mirror", "aria-hidden": "true" });
    this.list = h("ul", { class: "filter-options", role: "listbox", id: `${id}-options`, "aria-label": "Completions" });
    this.list.hidden = true;
    this.message = h("p", { class: "filter-error error", id: `${id}-error`, role: "alert" });
    this.input = h("input", {
      type: "text",
      id,
      class: "filter-input",
      role: "combobox",
      placeholder,
      value,
      autocomplete: "off",
      autocapitalize: "none",
      spellcheck: "false",
      enterkeyhint: "search",
      "aria-autocomplete": "list",
      "aria-expanded": "false",
      "aria-controls": `${id}-options`,
      "aria-label": label,
      "aria-keyshortcuts": "/",
      title: "Filter (press /)",
      oninput: () => this.onInput(),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.onKey(event),
      onscroll: () => this.scrollMirror(),
      onblur: () => this.onBlur(),
      onclick: () => this.suggest(false),
    });
    this.clear = h(
      "button",
      { type: "button", class: "icon-button filter-clear", "aria-label": "Clear the filter", onclick: () => this.set("", true) },
      "✕",
    );
    this.element = h(
      "div",
      { class: "filter", role: "search" },
      h("div", { class: "filter-box" }, this.mirror, this.input, this.clear, this.list),
      this.message,
    );
    this.list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the field keeps the focus
      const item = event.target instanceof Element ? event.target.closest("li") : null;
      const index = item === null ? -1 : [...this.list.children].indexOf(item);
      if (index >= 0) {
        this.accept(index);
      }
    });
    this.draw();
  }

  get value() {
    return this.input.value.trim();
  }

  focus() {
    this.input.focus();
    this.input.select();
  }

  /**
   * Show another filter.
   *
   * @param {string} text
   * @param {boolean} [isUsed] Whether it is the user's wish, too.
   */
  set(text, isUsed = false) {
    if (this.input.value.trim() !== text) {
      this.input.value = text;
    }
    this.setProblem(null);
    this.close();
    if (isUsed) {
      this.use(true);
      this.input.focus();
    } else {
      this.given = text;
    }
  }

  /**
   * Show what the server has said about the filter, or nothing; while somebody types, a little
   * later.
   *
   * @param {{detail: string, position?: number, text?: string, term?: number} | null} error
   */
  setProblem(error) {
    clearTimeout(this.errorTimer);
    if (error === null || !this.isTyping) {
      this.showProblem(error);
    } else {
      this.errorTimer = setTimeout(() => this.showProblem(error), ERROR_MILLISECONDS);
    }
  }

  /** @param {{detail: string, position?: number, text?: string, term?: number} | null} error */
  showProblem(error) {
    setAttribute(this.input, "aria-invalid", error === null ? null : "true");
    setAttribute(this.input, "aria-describedby", error === null ? null : this.message.id);
    setText(this.message, error === null ? "" : error.detail.replace(/^filter: /, ""));
    this.message.hidden = error === null;
    this.wrong = error === null ? undefined : placeOf(this.input.value, error);
    this.draw();
  }

  /** Nothing is asked for any more, though what was typed last has not been used. */
  destroy() {
    this.isDestroyed = true; // some browsers have a field lose its focus when it is removed
    clearTimeout(this.timer);
    clearTimeout(this.errorTimer);
  }

  // -- typing

  onInput() {
    this.isTyping = true;
    this.showProblem(null);
    this.suggest(true);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.use(false), TYPING_MILLISECONDS);
  }

  onBlur() {
    if (this.isDestroyed) {
      return;
    }
    this.close();
    if (this.value !== this.given || this.isTyping) {
      this.use(true);
    }
  }

  /** @param {boolean} isDone */
  use(isDone) {
    clearTimeout(this.timer);
    if (isDone) {
      this.isTyping = false;
    }
    // A term that is only begun, as service: is, would be an error: without it, until there is more.
    const text = isDone ? this.value : this.value.replace(/(^|\s)(?:not:)?[A-Za-z_.]*:$/, "").trim();
    if (text !== this.given || isDone) {
      this.given = text;
      this.onFilter(text, isDone);
    }
    this.draw();
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    const isOpen = !this.list.hidden;
    if (event.isComposing) {
      return;
    }
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (!isOpen) {
        this.suggest(false);
      }
      const count = this.options.length;
      if (count > 0) {
        const step = event.key === "ArrowDown" ? 1 : -1;
        this.choose(((this.chosen + step + count + 1) % (count + 1) + count + 1) % (count + 1));
      }
    } else if (event.key === "Enter") {
      if (isOpen && this.chosen >= 0) {
        this.accept(this.chosen);
      } else {
        this.close();
        this.use(true);
      }
    } else if (event.key === "Tab" && isOpen && this.chosen >= 0 && !event.shiftKey) {
      this.accept(this.chosen);
    } else if (event.key === "Escape") {
      if (isOpen) {
        this.close();
      } else {
        this.input.blur();
        this.onLeave?.();
        return;
      }
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {number} index One beyond the last is none. */
  choose(index) {
    this.chosen = index >= this.options.length ? -1 : index;
    [...this.list.children].forEach((item, each) => {
      setAttribute(item, "aria-selected", String(each === this.chosen));
      if (each === this.chosen) {
        setAttribute(this.input, "aria-activedescendant", item.id);
        item.scrollIntoView({ block: "nearest" });
      }
    });
    if (this.chosen < 0) {
      setAttribute(this.input, "aria-activedescendant", null);
    }
  }

  /** The term that the cursor is in, or an empty one. */
  term() {
    const at = this.input.selectionStart ?? this.input.value.length;
    const found = termsOf(this.input.value).find((term) => term.start <= at && at <= term.end);
    return found ?? { start: at, end: at, text: "" };
  }

  /** @param {boolean} isTyped Whether a key was typed: with an empty term, nothing is offered then. */
  suggest(isTyped) {
    const term = this.term();
    this.options = isTyped && term.text === "" ? [] : this.optionsFor(term.text).slice(0, MOST_OPTIONS);
    if (this.options.length === 1 && this.options[0]?.text === term.text) {
      this.options = [];
    }
    this.chosen = -1;
    replace(
      this.list,
      ...this.options.map((option, index) =>
        h(
          "li",
          { role: "option", id: `${this.list.id}-${index}`, "aria-selected": "false" },
          h("span", { class: "mono" }, option.label),
          h("span", { class: "muted" }, option.help),
        ),
      ),
    );
    this.list.hidden = this.options.length === 0;
    setAttribute(this.input, "aria-expanded", String(!this.list.hidden));
    setAttribute(this.input, "aria-activedescendant", null);
  }

  close() {
    this.options = [];
    this.chosen = -1;
    this.list.hidden = true;
    setAttribute(this.input, "aria-expanded", "false");
    setAttribute(this.input, "aria-activedescendant", null);
  }

  /**
   * @param {string} text Of the term, as far as it is typed.
   * @returns {Option[]}
   */
  optionsFor(text) {
    const negation = /^not:/i.exec(text)?.[0] ?? "";
    const rest = text.slice(negation.length);
    const colon = rest.indexOf(":");
    if (colon >= 0) {
      return this.valuesFor(negation, rest.slice(0, colon), rest.slice(colon + 1));
    }
    const typed = rest.toLowerCase();
    const keys = this.keys.filter((key) => key.name.includes(typed));
    keys.sort((one, other) => Number(other.name.startsWith(typed)) - Number(one.name.startsWith(typed)));
    const options = keys.map((key) => ({
      text: `${negation}${key.name}:`,
      label: `${negation}${key.name}:`,
      help: key.help || (KINDS[key.kind ?? ""] ?? ""),
      isWhole: false,
    }));
    if (negation === "" && "not".startsWith(typed)) {
      options.push({ text: "not:", label: "not:", help: "all but those", isWhole: false });
    }
    if (typed !== "") {
      // A word of a closed list, such as half_closed, is found without its key, too.
      for (const key of this.keys) {
        for (const choice of this.choices(key)) {
          if (choice.toLowerCase().startsWith(typed)) {
            const term = `${negation}${key.name}:${choice}`;
            options.push({ text: term, label: term, help: "", isWhole: true });
          }
        }
      }
    }
    return options;
  }

  /**
   * @param {string} negation
   * @param {string} name
   * @param {string} typed
   * @returns {Option[]}
   */
  valuesFor(negation, name, typed) {
    const key = this.keys.find((each) => each.name === name.toLowerCase());
    if (key === undefined) {
      return [];
    }
    const exact = typed.startsWith("=") ? "=" : "";
    const wanted = typed.slice(exact.length).toLowerCase();
    const choices = this.choices(key);
    const found = choices.filter((choice) => choice.toLowerCase().includes(wanted));
    found.sort((one, other) => Number(other.toLowerCase().startsWith(wanted)) - Number(one.toLowerCase().startsWith(wanted)));
    const options = found.map((choice) => ({
      text: `${negation}${key.name}:${exact}${quotedValue(choice)}`,
      label: printable(choice),
      help: "",
      isWhole: true,
    }));
    if (choices.length === 0 && typed === "") {
      for (const [example, help] of EXAMPLES[key.kind ?? ""] ?? []) {
        options.push({ text: `${negation}${key.name}:${example}`, label: example, help: `for example: ${help}`, isWhole: true });
      }
    }
    return options;
  }

  /** @param {FilterKey} key */
  choices(key) {
    return this.values[key.name]?.() ?? key.choices ?? [];
  }

  /** @param {number} index */
  accept(index) {
    const option = this.options[index];
    if (option === undefined) {
      return;
    }
    const term = this.term();
    const { value } = this.input;
    const after = value.slice(term.end);
    const text = option.text + (option.isWhole && !after.startsWith(" ") ? " " : "");
    this.input.value = value.slice(0, term.start) + text + after;
    const at = term.start + text.length;
    this.input.setSelectionRange(at, at);
    this.showProblem(null);
    if (option.isWhole) {
      this.close();
      this.use(true);
    } else {
      this.isTyping = true;
      this.suggest(true);
    }
    this.draw();
  }

  // -- the mark at the place of a problem

  /** The same text lies behind the field, with a mark where something is wrong. */
  draw() {
    const text = this.input.value;
    this.clear.hidden = text === "";
    this.message.hidden = this.message.textContent === "";
    const wrong = this.wrong;
    if (wrong === undefined) {
      replace(this.mirror);
      return;
    }
    // Not printable(): it must be as wide as what the field shows.
    this.mirror.replaceChildren(
      document.createTextNode(text.slice(0, wrong.start)),
      h("mark", null),
      document.createTextNode(text.slice(wrong.end)),
    );
    /** @type {Element} */ (this.mirror.children[0]).textContent = text.slice(wrong.start, wrong.end);
    this.scrollMirror();
  }

  scrollMirror() {
    this.mirror.scrollLeft = this.input.scrollLeft;
  }
}

/** @param {string} text */
function quotedValue(text) {
  return /[\s"'\\]/.test(text) ? `'${text.replace(/'/g, `'"'"'`)}'` : text;
}
