// @ts-check
// Small things for writing a page: make an element, change only what differs, keep keyed children in order.
// The files of this folder are joined into one module in the order dom, blocks, csv, table, panel.

/** @typedef {{[name: string]: any}} Block */

/**
 * Makes an element.
 * @param {string} tag
 * @param {{[name: string]: any}} [attributes]
 * @param {...(Node | string)} children
 * @returns {any}
 */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) put(element, name, value);
  element.append(...children);
  return element;
}

/**
 * Sets an attribute, or removes it when the value is null, undefined or false; touches nothing that is right already.
 * @param {Element} element
 * @param {string} name
 * @param {any} value
 */
function put(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/**
 * Sets an element's text. Model output and file names come through here: never as HTML.
 * @param {Element} element
 * @param {string} text
 */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Keeps `parent`'s children in step with `items` without moving those that stay, so that focus and scrolling survive.
 * @param {Element} parent
 * @param {Block[]} items
 * @param {(item: Block, index: number) => string} key
 * @param {(item: Block) => {element: Element, update: (item: Block) => void}} build
 */
function keep(parent, items, key, build) {
  const old = /** @type {any} */ (parent).kept || new Map();
  const kept = new Map();
  items.forEach((item, index) => {
    const name = key(item, index);
    const part = old.get(name) || build(item);
    old.delete(name);
    kept.set(name, part);
  });
  for (const part of old.values()) part.element.remove();
  let next = parent.firstElementChild;
  for (const part of kept.values()) {
    if (part.element === next) next = next.nextElementSibling;
    else parent.insertBefore(part.element, next);
  }
  /** @type {any} */ (parent).kept = kept;
  items.forEach((item, index) => kept.get(key(item, index)).update(item));
}

/** The sign of each kind; what it means is also said in words. */
const SIGNS = { ok: "✓", info: "i", busy: "…", warn: "!", error: "✗" };
const WORDS = { ok: "OK", info: "Note", busy: "Working", warn: "Warning", error: "Error" };

/**
 * A sign whose colour and shape both show its kind; people who hear the page get the word.
 * @returns {any}
 */
function sign() {
  const shape = make("span", { "aria-hidden": "true" });
  const word = make("span", { class: "noa-heard" });
  const element = make("span", {}, shape, word);
  element.show = (/** @type {keyof typeof SIGNS} */ kind) => {
    put(element, "class", `noa-sign noa-${kind}`);
    say(shape, SIGNS[kind]);
    say(word, `${WORDS[kind]}: `);
  };
  return element;
}
