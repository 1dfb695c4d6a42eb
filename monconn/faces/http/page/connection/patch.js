/**
 * Bring elements that are shown in line with new ones: what has not changed is left alone, so that
 * a selection, a tooltip or the place of a screen reader outlasts the second.
 *
 * @param {Element} parent
 * @param {Node[]} wanted Its children from now on, made for this.
 */
export function patchChildren(parent, wanted) {
  const present = [...parent.childNodes];
  wanted.forEach((node, index) => {
    const old = present[index];
    if (old === undefined) parent.append(node);
    else patch(old, node);
  });
  for (const old of present.slice(wanted.length)) old.remove();
}

/**
 * @param {ChildNode} old
 * @param {Node} wanted
 */
function patch(old, wanted) {
  if (old instanceof Text && wanted instanceof Text) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  if (!(old instanceof Element && wanted instanceof Element && old.tagName === wanted.tagName)) {
    old.replaceWith(wanted);
    return;
  }
  for (const name of old.getAttributeNames()) {
    if (name !== "style" && !wanted.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const name of wanted.getAttributeNames()) {
    const value = wanted.getAttribute(name) ?? "";
    // A style attribute is what the content security policy refuses: it is set by the object model.
    if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old instanceof HTMLElement && wanted instanceof HTMLElement && old.style.cssText !== wanted.style.cssText) {
    old.style.cssText = wanted.style.cssText;
  }
  patchChildren(old, [...wanted.childNodes]);
}
