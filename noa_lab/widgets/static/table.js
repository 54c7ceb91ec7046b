// A table, or one page of a long one; the rows of other pages are asked for.

/**
 * @param {Context} context
 * @param {Block} first
 */
function table(context, first) {
  const caption = make("caption", { class: "noa-heard" });
  const heads = make("tr");
  const body = make("tbody");
  const grid = make("table", { class: "noa-table" }, caption, make("thead", {}, heads), body);
  const scroller = make("div", { class: "noa-scroller", role: "group", tabindex: 0 }, grid);
  const nothing = make("p", { class: "noa-hint" });
  const where = make("span", { class: "noa-hint", role: "status" });
  const turn = (/** @type {number} */ by) => ({ action: "page", enabled: true, args: { table: first.id, by } });
  const back = press(context, turn(-1));
  const on = press(context, turn(1));
  const pager = make("div", { class: "noa-buttons" }, back.element, where, on.element);
  const save = saver(context, first.id);
  const foot = make("div", { class: "noa-buttons" }, pager, save.element);
  return {
    element: make("div", { class: "noa-tablebox", "data-table": first.id }, scroller, nothing, foot),
    update(/** @type {Block} */ block) {
      const count = block.rows.length;
      const end = block.offset + count;
      say(caption, block.label);
      put(scroller, "aria-label", block.label);
      scroller.hidden = !count;
      nothing.hidden = count > 0;
      say(nothing, block.empty);
      pager.hidden = block.total <= count;
      say(where, `rows ${block.offset + 1} to ${end} of ${block.total}`);
      back.update({ ...turn(-1), label: "Earlier rows", enabled: block.offset > 0 });
      on.update({ ...turn(1), label: "Later rows", enabled: end < block.total });
      save.update(block);
      foot.hidden = pager.hidden && save.element.hidden;
      keep(heads, block.columns, (_, index) => String(index), () => {
        const element = make("th", { scope: "col" });
        return { element, update: (head) => (say(element, head.label), put(element, "class", look(head))) };
      });
      const rows = block.rows.map((/** @type {any} */ cells) => ({ cells, columns: block.columns }));
      keep(body, rows, (_, index) => String(index), () => row(context));
    },
  };
}

/** @param {Block} head */
function look(head) {
  return `noa-${head.align}${head.wide ? " noa-wide" : ""}`;
}

/** @param {Context} context */
function row(context) {
  const element = make("tr");
  return {
    element,
    update(/** @type {Block} */ line) {
      const cells = line.cells.map((/** @type {any} */ content, /** @type {number} */ index) => ({ content, head: line.columns[index] }));
      keep(element, cells, (item, index) => `${index} ${item.content.action || ""}`, (item) => cell(context, item.content.action));
    },
  };
}

/**
 * @param {Context} context
 * @param {string | undefined} action
 */
function cell(context, action) {
  const words = make(action ? "button" : "div", action ? { type: "button", class: "noa-link" } : { class: "noa-answer" });
  const marks = make("div", { class: "noa-marks" });
  const element = make("td", {}, words, marks);
  /** @type {Block} */
  let now = {};
  if (action) words.addEventListener("click", () => element.closest(".noa-cut") || context.send(now.action, now.args));
  return {
    element,
    update(/** @type {Block} */ item) {
      now = typeof item.content === "string" ? { text: item.content, marks: [] } : item.content;
      put(element, "class", look(item.head));
      say(words, now.text);
      if (action) put(words, "aria-pressed", now.chosen === null ? null : String(now.chosen));
      marks.hidden = !now.marks.length;
      keep(marks, now.marks, (_, index) => String(index), () => {
        // The words beside it say all; read out, its own "Error" would make a fault of an answer that scores 0.
        const mark = sign();
        put(mark, "aria-hidden", "true");
        const name = make("span");
        const one = make("span", { class: "noa-mark" }, mark, name);
        return { element: one, update: (pair) => (mark.show(pair[0]), say(name, pair[1])) };
      });
    },
  };
}
