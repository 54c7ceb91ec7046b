// A table as a file: made in the browser, so that it lands where the user is, wherever the kernel runs.

/** What a spreadsheet would run; a lone dash and plain numbers are none. The full-width forms are the last four. */
const FORMULA = /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;
const NUMBER = /^-?[\d.,]*$/;

/**
 * The text of a CSV file (RFC 4180) with the byte order mark that spreadsheets need to read letters with accents.
 * @param {Block[]} columns
 * @param {any[][]} rows
 * @returns {string}
 */
function csv(columns, rows) {
  const lines = [columns.map((head) => head.label), ...rows.map((cells) => cells.map(plain))];
  return "\ufeff" + lines.map((cells) => `${cells.map(quoted).join(",")}\r\n`).join("");
}

/**
 * A cell's words, its marks among them.
 * @param {any} content
 * @returns {string}
 */
function plain(content) {
  if (typeof content === "string") return content;
  const marks = content.marks.map((/** @type {[string, string]} */ mark) => mark[1]).join(", ");
  return content.text && marks ? `${content.text} (${marks})` : content.text || marks;
}

/** @param {string} text */
function quoted(text) {
  const apostrophe = FORMULA.test(text) && !NUMBER.test(text) ? "'" : "";
  return `"${apostrophe}${text.replace(/"/g, '""')}"`;
}

/**
 * Gives the user a file.
 * @param {string} name
 * @param {string} text
 */
function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

/**
 * A button that saves a table; Python is asked for the rows that are not here.
 * @param {Context} context
 * @param {string} id
 */
function saver(context, id) {
  const element = make("button", { type: "button", class: "noa-button noa-small noa-save" }, "Save CSV");
  /** @type {Block} */
  let now = {};
  const save = (/** @type {any[][]} */ rows) => {
    const name = `${now.label.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") || id}.csv`;
    download(name, csv(now.columns, rows));
    say(element, "Saved ✓");
    setTimeout(() => say(element, "Save CSV"), 2000);
    context.announce(`Saved: ${name}`);
  };
  element.addEventListener("click", () => {
    if (element.closest(".noa-cut")) return;
    if (now.rows.length >= now.total) save(now.rows);
    else context.ask("rows", { table: id }, (answer) => save(answer.rows));
  });
  return {
    element,
    update(/** @type {Block} */ block) {
      now = block;
      put(element, "aria-label", `Save CSV: ${block.label}`);
      element.hidden = !block.export || !block.rows.length;
    },
  };
}
