/** Which runtime wins at each batch and thread count; the chosen cell is told below. */
function sweepMap(send) {
  let body = null;
  let chosen = null;
  const table = el("table", { class: "wb-heat", "aria-label": "Fastest runtime by batch and threads" });
  const top = el("tr");
  const rows = el("tbody");
  table.append(el("thead", {}, top), rows);
  const keys = el("p", { class: "wb-eff-legend" });
  const verdict = el("p", { class: "wb-heat-verdict num", "aria-live": "polite" });
  const bars = el("ul", { class: "wb-heat-bars" });
  const use = el("button", { type: "button", onclick: () => {
    const cell = find(chosen);
    if (cell) send({ do: "use", runtime: cell.runtime, batch: cell.batch, threads: cell.threads });
  } });
  const failed = el("ul", { class: "wb-heat-failed" });
  const node = el("div", {}, table, keys, verdict, bars, el("div", { class: "wb-actions" }, use), failed);
  const find = (key) => body.rows.flatMap((row) => row.cells).find((cell) => cell.key === key && cell.state === "known");

  function make(cell) {
    const text = el("b");
    const detail = el("small");
    const button = el("button", { type: "button", onclick: () => { chosen = cell.key; tell(); }, onkeydown: (event) => {
      const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const all = [...rows.querySelectorAll("button")];
      const wide = body.batches.length;
      const at = all.indexOf(button);
      const [column, line] = [(at % wide) + step[0], Math.floor(at / wide) + step[1]];
      if (column >= 0 && column < wide && line >= 0 && line < body.rows.length) all[line * wide + column].focus();
    }, onfocus: () => { chosen = cell.key; tell(); } }, text, detail);
    const node = el("td", {}, button);
    node.update = (cell) => {
      set(button, { "data-state": cell.state, "data-hue": cell.hue, "data-sure": String(cell.sure), "aria-label": cell.spoken || "not timed yet", "aria-pressed": String(cell.key === chosen), disabled: cell.state === "coming" });
      set(text, { text: cell.text });
      set(detail, { text: cell.detail });
    };
    return node;
  }

  function tell() {
    const known = body.rows.flatMap((row) => row.cells).filter((cell) => cell.state === "known");
    const cell = find(chosen) ?? known[0];
    for (const button of rows.querySelectorAll("button")) set(button, { "aria-pressed": String(Boolean(cell) && button.parentNode.cellKey === cell.key) });
    use.style.visibility = cell ? "" : "hidden"; // its place is kept
    set(verdict, { text: cell ? `Batch ${cell.batch}, ${cell.threads === 1 ? "1 thread" : `${cell.threads} threads`}: ${cell.verdict}` : "" });
    keyed(bars, cell?.bars ?? [], (bar) => bar.name, () => el("li", {}, el("span"), el("span", { class: "wb-heat-track" }, el("i")), el("span", { class: "num" })), (each, bar) => {
      set(each.children[0], { text: bar.name });
      set(each.children[1].firstChild, { "data-hue": bar.hue, style: { width: `${100 * bar.share}%` } });
      set(each.children[2], { text: bar.text });
    });
    if (!cell) return;
    chosen = cell.key;
    set(use, { text: `Use ${cell.runtime}, batch ${cell.batch}, ${cell.threads === 1 ? "1 thread" : `${cell.threads} threads`}` });
  }

  return {
    node,
    draw(next) {
      body = next;
      keyed(top, [{ value: "" }, ...body.batches], (batch) => batch.value, () => el("th", { scope: "col" }), (each, batch) => set(each, { text: batch.text ?? "" }));
      keyed(rows, body.rows, (row) => row.threads, () => el("tr", {}, el("th", { scope: "row" })), (each, row) => {
        set(each.firstChild, { text: row.text });
        each.cells_ ??= new Map();
        for (const cell of row.cells) {
          if (!each.cells_.has(cell.key)) {
            const made = Object.assign(make(cell), { cellKey: cell.key });
            each.cells_.set(cell.key, made);
            each.append(made);
          }
          each.cells_.get(cell.key).update(cell);
        }
      });
      keyed(keys, body.runtimes, (each) => each.name, () => el("span", {}, el("i"), el("span")), (each, runtime) => {
        set(each.firstChild, { "data-hue": runtime.hue });
        set(each.lastChild, { text: runtime.name });
      });
      keyed(failed, body.failed, String, () => el("li"), (each, text) => set(each, { text }));
      tell();
    },
  };
}
