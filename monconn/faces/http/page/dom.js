/**
 * Making and changing elements. Texts become text nodes and nothing else: every name comes from
 * strangers.
 */

/**
 * @typedef {Node | string | number | null | undefined | false} Child
 * @typedef {Child | Child[]} Children
 */

const SVG = "http://www.w3.org/2000/svg";
const UNPRINTABLE = /[\p{C}\p{Z}]/gu;

/**
 * A text that cannot be read as another one: control characters, marks of direction, characters
 * without width and separators other than the blank are written as escapes, such as \x1b, \u202e.
 *
 * @param {unknown} value
 * @returns {string}
 */
export function printable(value) {
  const text = value === null || value === undefined ? "" : String(value);
  return text.replace(UNPRINTABLE, (character) => (character === " " ? " " : escaped(character)));
}

/** @param {string} character */
function escaped(character) {
  const named = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[character];
  if (named !== undefined) {
    return named;
  }
  const code = character.codePointAt(0) ?? 0;
  const digits = code.toString(16);
  if (code < 0x100) {
    return `\\x${digits.padStart(2, "0")}`;
  }
  return code < 0x10000 ? `\\u${digits.padStart(4, "0")}` : `\\U${digits.padStart(8, "0")}`;
}

/**
 * An element.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any> | null} [props] Attributes; `class`; functions named `onclick` and
 *   the like become listeners; `dataset` and `style` are objects; true is an empty attribute, and
 *   false, null and undefined are none.
 * @param {...Children} children Texts are made printable.
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  setProps(element, props);
  append(element, children);
  return element;
}

/**
 * An element of SVG; as `h`.
 *
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any> | null} [props]
 * @param {...Children} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(tag, props, ...children) {
  const element = /** @type {SVGElementTagNameMap[K]} */ (document.createElementNS(SVG, tag));
  setProps(element, props);
  append(element, children);
  return element;
}

/**
 * @param {HTMLElement | SVGElement} element
 * @param {Record<string, any> | null} [props]
 */
function setProps(element, props) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name.startsWith("on") && typeof value === "function") {
      element.addEventListener(name.slice(2), value);
    } else if (name === "dataset") {
      Object.assign(element.dataset, value);
    } else if (name === "style") {
      // By the object model: a style attribute is what the content security policy refuses.
      for (const [property, each] of Object.entries(value)) {
        element.style.setProperty(property, String(each));
      }
    } else if (name === "value" && "value" in element) {
      element.value = value;
    } else if (name === "checked" && "checked" in element) {
      element.checked = Boolean(value);
    } else {
      setAttribute(element, name, value);
    }
  }
}

/**
 * Set an attribute unless it is so already; false, null and undefined remove it.
 *
 * @param {Element} element
 * @param {string} name
 * @param {unknown} value
 */
export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) {
    if (element.hasAttribute(name)) {
      element.removeAttribute(name);
    }
    return;
  }
  const text = value === true ? (name.startsWith("aria-") ? "true" : "") : printable(value);
  if (element.getAttribute(name) !== text) {
    element.setAttribute(name, text);
  }
}

/**
 * @param {Node} parent
 * @param {Children[]} children
 */
export function append(parent, children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) {
      continue;
    }
    parent.appendChild(child instanceof Node ? child : document.createTextNode(printable(child)));
  }
}

/**
 * Put these children in the place of those that are there.
 *
 * @param {Element} parent
 * @param {...Children} children
 */
export function replace(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

/**
 * Set the text of an element unless it is so already: a selection in it stays, and nothing is
 * laid out again.
 *
 * @param {Element} element
 * @param {unknown} value
 */
export function setText(element, value) {
  const text = printable(value);
  const only = element.firstChild;
  if (only instanceof Text && only === element.lastChild) {
    if (only.data !== text) {
      only.data = text;
    }
  } else if (element.textContent !== text || only !== null) {
    element.textContent = text;
  }
}

/**
 * Make the children of an element those of a list: the element of an item that stays is kept, with
 * its focus, and moved only if the order asks for it.
 *
 * @template T
 * @template {Element} E
 * @param {Element} parent Has no other children.
 * @param {Iterable<T>} items
 * @param {(item: T) => string | number} keyOf
 * @param {(item: T) => E} make
 * @param {(element: E, item: T) => void} [update] Is called for each item, made or kept.
 */
export function keyed(parent, items, keyOf, make, update) {
  const wanted = [...items];
  const keys = new Set(wanted.map((item) => String(keyOf(item))));
  /** @type {Map<string, E>} */
  const known = new Map();
  // What is gone leaves first, so that what stays need not be moved: an element that is moved
  // loses its focus.
  for (const child of [...parent.children]) {
    const key = String(/** @type {any} */ (child).monconnKey);
    if (keys.has(key)) {
      known.set(key, /** @type {E} */ (child));
    } else {
      child.remove();
    }
  }
  /** @type {ChildNode | null} */
  let next = parent.firstChild;
  for (const item of wanted) {
    const key = String(keyOf(item));
    let element = known.get(key);
    if (element === undefined) {
      element = make(item);
      /** @type {any} */ (element).monconnKey = key;
    }
    if (element === next) {
      next = next.nextSibling;
    } else {
      parent.insertBefore(element, next);
    }
    update?.(element, item);
  }
}

/**
 * The element of this id, which is there.
 *
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) {
    throw new Error(`there is no element ${id}`);
  }
  return element;
}
