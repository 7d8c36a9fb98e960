/** Copies text; where the page has no clipboard (plain http), through a selected text area. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "wb-hidden", "aria-hidden": "true" });
    area.value = text;
    const before = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    before?.focus?.({ preventScroll: true });
    return done;
  }
}

/** Hands a file to the browser, as if it had been downloaded. */
function save(name, content) {
  const url = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

export default part("wb-card wb-tried", (root, send, model) => {
  let view = { code: "", csv: "" };
  const head = heading("Tried");
  const body = el("tbody");
  const columns = ["Recipe", "Acc., %", "Drop", "kB", "ms", "Flips"];
  const names = ["name", "accuracy", "drop", "kilobytes", "milliseconds", "flips"];
  const heads = columns.map((text, i) => el("th", { scope: "col", text, class: `wb-c-${names[i]}` }));
  const table = el("table", { class: "num" }, el("thead", {}, el("tr", {}, ...heads)), body);
  const said = el("span", { class: "wb-why", role: "status", "aria-live": "polite" });
  let timer = null;
  const say = (text) => {
    set(said, { text });
    clearTimeout(timer);
    timer = setTimeout(() => set(said, { text: "" }), 3000);
  };
  const copier = (text, what, key) => el("button", { type: "button", text, onclick: async () => {
    const done = await copy(view[key]);
    say(done ? `${what} is in the clipboard.` : "The browser did not allow it; select and copy by hand.");
  } });
  const file = el("button", { type: "button", text: "Save model", title: "The packed weights of the recipe on the screen, .safetensors", onclick: () => send({ do: "export" }) });
  const received = (message, buffers) => {
    if (!message.file) return;
    save(message.file, buffers[0]);
    say(`${message.file} is with the browser's downloads.`);
  };
  model.on("msg:custom", received);
  const quiet = el("p", { class: "wb-quiet", text: "Nothing was tried yet." });
  root.append(head.node, el("div", { class: "wb-scroll" }, table), quiet,
    el("div", { class: "wb-actions" }, copier("Copy as code", "The recipe", "code"), copier("Copy as CSV", "The table", "csv"), file, said));

  function make(row) {
    const cells = names.map((name) => el("td", { class: `wb-c-${name}` }));
    const button = el("button", { type: "button", class: "wb-link" });
    const sign = el("span", { class: "wb-sign" });
    cells[0].append(button);
    cells[1].append(sign, el("span"));
    const node = el("tr", { onclick: () => send({ do: "restore", key: row.key }) }, ...cells);
    node.update = (row) => {
      set(node, { "aria-current": row.now ? "true" : null, "data-key": row.key, title: row.now ? null : "Click to go back to it" });
      set(button, { text: row.name });
      if (sign.dataset.origin !== row.origin) {
        sign.dataset.origin = row.origin;
        sign.replaceChildren(svg("svg", { viewBox: "0 0 10 10", width: 8, height: 8, role: "img", "aria-label": row.origin }, mark(row.origin, 5, 5, 9)));
      }
      set(cells[1].lastChild, { text: row.accuracy });
      set(cells[2], { text: row.drop, "data-sure": String(row.sure) });
      names.slice(3).forEach((name, i) => set(cells[3 + i], { text: row[name] }));
    };
    return node;
  }

  return {
    end: () => model.off("msg:custom", received),
    draw(next) {
      view = next;
      set(head.remark, { text: view.remark });
      set(quiet, { hidden: view.rows.length > 0 });
      table.hidden = !view.rows.length;
      for (const [name, text] of Object.entries(view.heads ?? {})) set(heads[names.indexOf(name)], { text });
      keyed(body, view.rows, (row) => row.key, make, (node, row) => node.update(row));
    },
  };
});
