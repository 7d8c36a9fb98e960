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
  let view = { code: "", csv: "", columns: [], rows: [], fixed: [], export: { forms: [], working: "", said: "", tone: "" } };
  let choosing = false;
  const chosen = new Set(); // keys of rows, in the order in which they were chosen
  const head = heading("Tried");
  const tabs = el("span", { class: "wb-toggle", role: "group", "aria-label": "Which recipes" });
  const body = el("tbody");
  const top = el("tr");
  const table = el("table", { class: "num" }, el("thead", {}, top), body);
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
  const forms = el("select", { "aria-label": "Save as" });
  const file = el("button", { type: "button", text: "Save model", onclick: () => send({ do: "export", form: forms.value }) });
  const going = el("span", { class: "wb-why num", "aria-live": "polite" });
  const halt = el("button", { type: "button", class: "wb-plain", text: "Cancel", "aria-label": "Cancel saving", onclick: () => send({ do: "stop" }) });
  const result = el("p", { class: "wb-why num", role: "status" });
  const export_ = el("div", { class: "wb-export" }, el("div", { class: "wb-actions" }, forms, file, going, halt), result);
  const select = el("button", { type: "button", class: "wb-plain", title: "Choose rows to compare or to delete", onclick: () => {
    choosing = !choosing;
    chosen.clear();
    draw();
  } });
  const compare = el("button", { type: "button", onclick: () => {
    const [one, other] = chosen;
    send({ do: "compare", one, other });
  } });
  const remove = el("button", { type: "button", onclick: () => {
    for (const key of deletable()) send({ do: "forget", key });
    chosen.clear();
    draw();
  } });
  const deletable = () => [...chosen].filter((key) => !view.fixed.includes(key));
  const received = (message, buffers) => {
    if (!message.file) return;
    save(message.file, buffers[0]);
    say(`${message.file} is with the browser's downloads.`);
  };
  model.on("msg:custom", received);
  const quiet = el("p", { class: "wb-quiet", text: "Nothing was tried yet." });
  const pair = pairTable(() => send({ do: "apart" }));
  const usual = [copier("Copy as code", "The recipe", "code"), copier("Copy as CSV", "The table", "csv")];
  root.append(head.node, tabs, el("div", { class: "wb-scroll" }, table), quiet,
    el("div", { class: "wb-actions" }, ...usual, compare, remove, select, said), pair.node, export_);

  function make(row) {
    const button = el("button", { type: "button", class: "wb-link", onclick: (event) => { event.stopPropagation(); press(row.key); } });
    const box = el("input", { type: "checkbox", tabindex: -1, "aria-hidden": "true" });
    const sign = el("span", { class: "wb-sign" });
    const node = el("tr", { onclick: () => press(row.key) }, el("td", { class: "wb-c-name" }, box, button));
    const cells = new Map();
    node.update = (row) => {
      const on = chosen.has(row.key);
      set(node, { "aria-current": row.now ? "true" : null, "data-key": row.key, title: choosing ? null : row.now ? null : "Click to go back to it", "data-chosen": String(on) });
      set(button, { text: row.name, "aria-pressed": choosing ? String(on) : null });
      set(box, { hidden: !choosing });
      box.checked = on;
      view.columns.forEach(({ name }, i) => {
        if (!cells.has(name)) cells.set(name, el("td", { class: `wb-c-${name}` }, el("span")));
        const cell = cells.get(name);
        set(cell.lastChild, { text: row[name] });
        if (i === 0 && sign.parentNode !== cell) cell.prepend(sign);
        if (["drop", "difference"].includes(name)) set(cell, { "data-sure": String(row.sure) });
        if (node.children[i + 1] !== cell) node.insertBefore(cell, node.children[i + 1] ?? null);
      });
      while (node.children.length > view.columns.length + 1) node.lastChild.remove();
      if (sign.dataset.origin !== row.origin) {
        sign.dataset.origin = row.origin;
        sign.replaceChildren(svg("svg", { viewBox: "0 0 10 10", width: 8, height: 8, role: "img", "aria-label": row.origin }, mark(row.origin, 5, 5, 9)));
      }
    };
    return node;
  }

  function press(key) {
    if (!choosing) return send({ do: "restore", key });
    if (!chosen.delete(key)) chosen.add(key);
    draw();
  }

  function draw() {
    const some = view.rows.length > 0;
    set(head.remark, { text: view.remark });
    set(quiet, { hidden: some });
    table.hidden = !some;
    set(tabs, { hidden: !view.tabs.length });
    keyed(tabs, view.tabs, (tab) => tab.value, (tab) => el("button", { type: "button", onclick: () => send({ do: "show", students: tab.value }) }),
      (button, tab) => set(button, { text: tab.text, "aria-pressed": String(tab.pressed) }));
    keyed(top, [{ name: "name", text: "Recipe" }, ...view.columns], (column) => column.name, (column) => el("th", { scope: "col", class: `wb-c-${column.name}` }), (node, column) => set(node, { text: column.text }));
    keyed(body, view.rows, (row) => row.key, make, (node, row) => node.update(row));
    for (const button of usual) set(button, { hidden: choosing });
    set(select, { text: choosing ? "Done" : "Select", hidden: view.rows.length < 2 && !choosing });
    set(compare, { hidden: !choosing, disabled: chosen.size !== 2, text: "Compare two" });
    set(remove, { hidden: !choosing, disabled: !deletable().length, text: `Delete ${deletable().length || ""}`.trim(), title: "From this list; the baseline and the recipe on the screen stay" });
    pair.draw(view.pair);
    const { forms: offered, working, said: told, tone } = view.export;
    keyed(forms, offered, (form) => form.value, (form) => el("option", { value: form.value }), (each, form) => set(each, { text: form.text, title: form.title }));
    set(forms, { title: offered.find((form) => form.value === forms.value)?.title ?? null });
    set(file, { disabled: Boolean(working) });
    set(going, { text: working, hidden: !working });
    set(halt, { hidden: !working });
    set(result, { text: told, hidden: !told, "data-tone": tone || null });
  }

  return {
    end: () => model.off("msg:custom", received),
    draw(next) {
      view = next;
      for (const key of chosen) if (!view.rows.some((row) => row.key === key)) chosen.delete(key);
      draw();
    },
  };
});

/** Two recipes side by side. */
function pairTable(end) {
  const names = [el("th", { scope: "col" }), el("th", { scope: "col" })];
  const rows = el("tbody");
  const said = el("p", { class: "wb-said num", role: "status" });
  const node = el("div", { class: "wb-pair", role: "group", "aria-label": "Two recipes side by side" },
    el("table", { class: "num" }, el("thead", {}, el("tr", {}, el("td"), ...names)), rows),
    el("div", { class: "wb-foot" }, said, el("button", { type: "button", class: "wb-plain", text: "✕", "aria-label": "End the comparison", onclick: end })));
  return {
    node,
    draw(view) {
      set(node, { hidden: !view });
      if (!view) return;
      names.forEach((each, i) => set(each, { text: view.names[i], title: view.names[i] }));
      keyed(rows, view.rows, (row) => row.name, () => el("tr", {}, el("th", { scope: "row" }), el("td"), el("td")), (each, row) =>
        [row.name, row.one, row.other].forEach((text, i) => set(each.children[i], { text })));
      set(said, { text: view.said, "data-tone": view.tone });
    },
  };
}
