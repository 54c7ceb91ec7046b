// A panel: draws the view that Python sent, and sends back what was typed and pressed. It holds no state of its own except edits
// that Python has not answered yet.

const TYPING_PAUSE = 300; // ms between the last key and telling Python
const SAY_GAP = 1000; // ms between two announcements
const HERE_GAP = 15000; // ms between two signs of life; Python looks at the machine only while somebody looks at the panel

/** @param {{model: any, el: HTMLElement}} surface */
function render({ model, el }) {
  const client = crypto.randomUUID ? crypto.randomUUID().slice(0, 8) : String(Math.random()).slice(2, 10);
  /** @type {Map<string, {value: any, seq: number}>} seq 0: not sent yet */
  const edits = new Map();
  /** @type {Map<string, (answer: Block) => void>} What waits for an answer. */
  const asked = new Map();
  let seq = 0;
  let typing = 0;

  const mark = sign();
  const title = make("h3", { class: "noa-title", id: `noa-${client}-title` });
  const status = make("span", { class: "noa-status" });
  const intro = make("p", { class: "noa-intro" });
  const banner = make(
    "div",
    { class: "noa-banner", role: "alert" },
    "✗ The kernel behind this panel is gone. Run this cell again to reattach: nothing that was finished is lost.",
  );
  const strip = make("div", { class: "noa-strip" });
  const body = make("div", { class: "noa-stack" });
  const live = make("div", { class: "noa-heard", role: "status", "aria-live": "polite" });
  const head = make("div", { class: "noa-head" }, title, make("span", { class: "noa-state" }, mark, status));
  const root = make("div", { class: "noa", role: "group", "aria-labelledby": title.id }, head, intro, banner, strip, body, live);

  const announce = speaker(live);
  /** @param {string} action @param {Block} [args] */
  const send = (action, args = {}) => {
    clearTimeout(typing);
    seq += 1;
    /** @type {Block} */
    const values = {};
    for (const [id, edit] of edits) {
      if (edit.seq === 0) {
        edit.seq = seq;
        values[id] = edit.value;
      }
    }
    model.send({ action, args, values, client, seq });
  };
  /** @type {Context} */
  const context = {
    id: (id) => `noa-${client}-${id}`,
    send,
    ask(action, args, then) {
      const reply = `${client}-${seq + 1}`;
      asked.set(reply, then);
      send(action, { ...args, reply });
    },
    edit(id, value, now) {
      edits.set(id, { value, seq: 0 });
      clearTimeout(typing);
      if (now) send("edit");
      else typing = setTimeout(() => send("edit"), TYPING_PAUSE);
    },
    pending: (id) => edits.has(id),
    announce,
  };

  let planned = false;
  let told = "";
  const draw = () => {
    planned = false;
    const view = model.get("view");
    if (!view || !view.title) return;
    const answered = (view.seen || {})[client] || 0;
    for (const [id, edit] of edits) if (edit.seq && edit.seq <= answered) edits.delete(id);
    put(root, "data-testid", view.panel);
    put(root, "data-state", view.state);
    say(title, view.title);
    say(intro, view.intro);
    intro.hidden = !view.intro;
    mark.show(view.state);
    say(status, view.status);
    messages(strip, view.messages);
    blocks(context, body, filled(view.blocks, model.get("parts") || {}));
    const words = [view.status, ...view.messages.slice(-1).map((/** @type {Block} */ last) => `${last.text} ${last.fix}`)].join(". ");
    // A view that says nothing new must not talk over what was announced since.
    if (words !== told) announce(words);
    told = words;
  };
  const plan = () => {
    if (!planned) {
      planned = true;
      queueMicrotask(draw);
    }
  };
  const here = () => document.visibilityState === "visible" && model.send({ action: "here", args: {}, values: {}, client, seq: 0 });
  // anywidget takes away the listener with which ipywidgets would mark a view whose kernel is gone; `this` is that view.
  const cut = function () {
    // @ts-ignore
    put(root, "class", this?.model?.comm_live === false ? "noa noa-cut" : "noa");
  };

  // Every view of a panel hears every answer.
  const answer = (/** @type {Block} */ content) => {
    asked.get(content.reply)?.(content);
    asked.delete(content.reply);
  };

  model.on("change:view", plan);
  model.on("change:parts", plan);
  model.on("msg:custom", answer);
  model.on("comm_live_update", cut);
  document.addEventListener("visibilitychange", here);
  root.addEventListener("keydown", keepTyping);
  const pulse = setInterval(here, HERE_GAP);
  draw();
  el.append(root);
  here();
  return () => {
    if ([...edits.values()].some((edit) => edit.seq === 0)) send("edit");
    model.off("change:view", plan);
    model.off("change:parts", plan);
    model.off("msg:custom", answer);
    document.removeEventListener("visibilitychange", here);
    model.off("comm_live_update", cut);
    clearInterval(pulse);
    clearTimeout(typing);
  };
}

/**
 * The view's blocks with their heavy parts (rows, logs, code), which travel in a trait of their own.
 * @param {Block[]} list
 * @param {Block} parts
 * @returns {Block[]}
 */
function filled(list, parts) {
  return list.map((block) => {
    if (block.type === "section") return { ...block, blocks: filled(block.blocks, parts) };
    return { rows: [], text: "", ...block, ...(parts[block.id] || {}) };
  });
}

/**
 * @param {Element} strip
 * @param {Block[]} list
 */
function messages(strip, list) {
  keep(strip, list, (item) => item.kind + item.text, () => {
    const mark = sign();
    const what = make("span");
    const fix = make("span", { class: "noa-fix" });
    const element = make("div", {}, mark, make("div", {}, what, " ", fix));
    return {
      element,
      update(item) {
        put(element, "class", `noa-message noa-told noa-edge-${item.kind}`);
        mark.show(item.kind);
        say(what, item.text);
        say(fix, item.fix);
      },
    };
  });
}

/**
 * Says words to people who hear the page: at most one sentence a second, the newest last, nothing twice.
 * @param {Element} live
 * @returns {(words: string) => void}
 */
function speaker(live) {
  let last = "";
  let next = "";
  let waiting = false;
  let spoken = 0;
  const speak = () => {
    waiting = false;
    spoken = Date.now();
    say(live, next);
  };
  return (words) => {
    if (words === last) return;
    last = next = words;
    if (waiting) return;
    waiting = true;
    setTimeout(speak, Math.max(0, spoken + SAY_GAP - Date.now()));
  };
}

/**
 * Keeps what is typed into a field from becoming a shortcut of the notebook. Keys that are not typing (Shift+Enter, Escape,
 * anything with Ctrl, Alt or Command) still reach JupyterLab.
 * @param {KeyboardEvent} event
 */
function keepTyping(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const shortcut = event.ctrlKey || event.metaKey || event.altKey || event.key === "Escape" || (event.shiftKey && event.key === "Enter");
  if (!shortcut && target.matches("input, textarea, select, button, summary, [tabindex]")) event.stopPropagation();
}

export default { render };
