// One function for each type of block: it makes the elements once and returns how to bring them up to date.

/**
 * What a block needs of its panel.
 * @typedef {object} Context
 * @property {(id: string) => string} id  An element id of this view's own.
 * @property {(action: string, args?: Block) => void} send  Tells Python that something was pressed.
 * @property {(action: string, args: Block, then: (answer: Block) => void) => void} ask  Asks Python something, and takes the answer.
 * @property {(id: string, value: any, now: boolean) => void} edit  Tells Python what was typed.
 * @property {(id: string) => boolean} pending  Whether Python has yet to answer an edit of this field.
 * @property {(words: string) => void} announce  Says something to people who hear the page.
 */

/** @type {{[type: string]: (context: Context, block: Block) => {element: any, update: (block: Block) => void}}} */
const BLOCKS = {
  section(context, first) {
    const foldable = first.folded !== null;
    const heading = make(foldable ? "summary" : "div", { class: "noa-heading", id: context.id(first.id) });
    const body = make("div", {});
    const element = make(foldable ? "details" : "div", { class: "noa-section", open: foldable && !first.folded }, heading, body);
    return {
      element,
      update(block) {
        say(heading, block.label);
        heading.hidden = !block.label;
        if (!foldable) {
          // A group without a name would only be read out as "group".
          put(element, "role", block.label ? "group" : null);
          put(element, "aria-labelledby", block.label ? heading.id : null);
        }
        put(body, "class", `noa-${block.layout}`);
        blocks(context, body, block.blocks);
      },
    };
  },

  facts(context) {
    const element = make("dl", { class: "noa-facts" });
    return {
      element,
      update(block) {
        put(element, "aria-label", block.label);
        keep(element, block.items, (item) => item[0], () => {
          const name = make("dt");
          const value = make("dd");
          const pair = make("div", {}, name, value);
          return { element: pair, update: (item) => (say(name, item[0]), say(value, item[1])) };
        });
      },
    };
  },

  text() {
    const mark = sign();
    const words = make("span");
    const element = make("p", { class: "noa-text" }, mark, words);
    return {
      element,
      update(block) {
        mark.hidden = !block.kind;
        if (block.kind) mark.show(block.kind);
        put(element, "class", block.kind ? `noa-text noa-told noa-edge-${block.kind}` : "noa-text");
        say(words, block.text);
      },
    };
  },

  field: (context, first) => field(context, first),
  table: (context, first) => table(context, first),

  buttons(context) {
    const element = make("div", { class: "noa-buttons" });
    return {
      element,
      update(block) {
        // A button that says something else after it was pressed is the same button: the focus stays on it.
        const nth = (/** @type {Block} */ item, /** @type {number} */ index) =>
          block.items.slice(0, index).filter((/** @type {Block} */ other) => other.action === item.action).length;
        keep(element, block.items, (item, index) => `${item.action} ${nth(item, index)}`, (item) => press(context, item));
      },
    };
  },

  progress(context) {
    const fill = make("div", { class: "noa-fill" });
    const bar = make("div", { class: "noa-bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
    const words = make("div", { class: "noa-words" });
    const element = make("div", { class: "noa-progress" }, bar, words);
    return {
      element,
      update(block) {
        const percent = block.fraction === null ? null : Math.floor(block.fraction * 100);
        put(bar, "aria-label", block.label);
        put(bar, "aria-valuenow", percent);
        put(bar, "aria-valuetext", percent === null ? block.text : `${percent} %: ${block.text}`);
        put(bar, "class", percent === null ? "noa-bar noa-unknown" : "noa-bar");
        fill.style.width = percent === null ? "" : `${block.fraction * 100}%`;
        say(words, percent === null ? block.text : `${percent} % · ${block.text}`);
      },
    };
  },

  code(context) {
    const pre = make("pre", { class: "noa-code", tabindex: 0, role: "group" });
    const label = make("div", { class: "noa-label" });
    const copy = make("button", { class: "noa-button noa-small", type: "button" }, "Copy");
    copy.addEventListener("click", async () => {
      let words = "Copied.";
      try {
        await navigator.clipboard.writeText(pre.textContent);
      } catch {
        // Without permission for the clipboard the text is selected, ready for the usual key.
        getSelection()?.selectAllChildren(pre);
        words = "The text is selected: copy it with your usual key.";
      }
      say(copy, words === "Copied." ? "Copied ✓" : "Selected");
      setTimeout(() => say(copy, "Copy"), 2000);
      context.announce(words);
    });
    const element = make("div", { class: "noa-codebox" }, make("div", { class: "noa-codebar" }, label, copy), pre);
    return {
      element,
      update(block) {
        say(label, block.label);
        put(pre, "aria-label", block.label);
        put(copy, "aria-label", `Copy: ${block.label}`);
        say(pre, block.text);
      },
    };
  },

  log(context) {
    const pre = make("pre", { class: "noa-log", tabindex: 0, role: "group" });
    return {
      element: pre,
      update(block) {
        const atEnd = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 8;
        put(pre, "aria-label", block.label);
        say(pre, block.text || "(empty)");
        if (atEnd) pre.scrollTop = pre.scrollHeight;
      },
    };
  },
};

/**
 * Brings a list of blocks up to date.
 * @param {Context} context
 * @param {Element} parent
 * @param {Block[]} list
 */
function blocks(context, parent, list) {
  keep(parent, list, (block) => `${block.type} ${block.id}`, (block) => BLOCKS[block.type](context, block));
}

/**
 * A button. One that cannot be pressed now stays reachable, so that focus is not lost when work begins.
 * @param {Context} context
 * @param {Block} first
 */
function press(context, first) {
  const element = make("button", { type: "button", class: "noa-button" });
  let now = first;
  element.addEventListener("click", () => {
    if (now.enabled && !element.closest(".noa-cut")) context.send(now.action, now.args);
  });
  return {
    element,
    update(/** @type {Block} */ block) {
      now = block;
      say(element, block.label);
      put(element, "class", `noa-button${block.primary ? " noa-primary" : ""}${block.small ? " noa-small" : ""}`);
      put(element, "aria-disabled", block.enabled ? null : "true");
      put(element, "data-action", block.action);
    },
  };
}

/**
 * A labelled field. What is being typed is never overwritten: Python's value is shown once Python has answered every edit.
 * @param {Context} context
 * @param {Block} first
 */
function field(context, first) {
  const id = context.id(`field-${first.id}`);
  const label = make("label", { class: "noa-label", for: id });
  const hint = make("div", { class: "noa-hint", id: `${id}-hint` });
  const ticked = first.kind === "checkbox";
  const tag = first.kind === "area" ? "textarea" : first.kind === "select" ? "select" : "input";
  const input = make(tag, { id, class: ticked ? "noa-check" : "noa-input", spellcheck: "false", autocomplete: "off" });
  if (tag === "input") put(input, "type", ticked ? "checkbox" : "text");
  if (first.kind === "number") put(input, "inputmode", "decimal");
  const read = () => (ticked ? input.checked : input.value);
  input.addEventListener("input", () => context.edit(first.id, read(), tag === "select" || ticked));
  input.addEventListener("change", () => context.edit(first.id, read(), true));
  const parts = ticked ? [make("div", { class: "noa-checkline" }, input, label), hint] : [label, input, hint];
  return {
    element: make("div", { class: `noa-field noa-field-${first.kind}` }, ...parts),
    update(/** @type {Block} */ block) {
      say(label, block.label);
      say(hint, block.error ? `✗ ${block.error}` : block.help);
      hint.hidden = !hint.textContent;
      put(input, "aria-describedby", hint.hidden ? null : hint.id);
      put(input, "aria-invalid", block.error ? "true" : null);
      if (tag === "textarea") put(input, "rows", block.rows);
      if (tag === "select") {
        keep(input, block.options, (option) => option[0], (option) => {
          const element = make("option", { value: option[0] });
          return { element, update: (/** @type {Block} */ now) => say(element, now[1]) };
        });
      }
      put(input, tag === "select" || ticked ? "disabled" : "readonly", !block.enabled);
      if (context.pending(first.id) || read() === block.value) return;
      if (ticked) input.checked = block.value;
      else input.value = block.value;
    },
  };
}
