/** Rows of a name, a figure and what it means. */
function factRows() {
  const node = el("dl", { class: "wb-facts" });
  return { node, draw(body) {
    keyed(node, body.rows, (row) => row.name, () => el("div", {}, el("dt"), el("dd", {}, el("b", { class: "num" }), el("span"))), (each, row) => {
      set(each.firstChild, { text: row.name });
      set(each.lastChild.firstChild, { text: row.value });
      set(each.lastChild.lastChild, { text: row.what });
    });
  } };
}

/** Seconds of each kernel, in the order in which they run or the slowest first. */
function timeTable() {
  let body = null;
  let by = "order";
  let down = false;
  const said = el("p", { class: "wb-why num" });
  const columns = [["name", "Layer"], ["kernel", "Kernel"], ["bits", "Bits"], ["seconds", "A call"]];
  const heads = columns.map(([key, text]) => el("th", { scope: "col", class: `wb-times-${key}` }, el("button", { type: "button", onclick: () => sort(key) }, el("span", { text }), el("span", { class: "wb-arrow" }))));
  const rows = el("tbody");
  const node = el("div", {}, said, el("div", { class: "wb-scroll wb-times", tabindex: 0, role: "region", "aria-label": "Seconds of each layer" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), rows)));

  function sort(key) {
    if (by === key && (down !== (key === "seconds"))) [by, down] = ["order", false]; // the third press: as they run
    else [by, down] = by === key ? [key, !down] : [key, key === "seconds"];
    draw();
  }

  function draw() {
    columns.forEach(([key], i) => set(heads[i], { "aria-sort": key === by ? (down ? "descending" : "ascending") : null }));
    set(said, { text: body.text });
    const order = (a, b) => (typeof a[by] === "number" ? a[by] - b[by] : String(a[by]).localeCompare(String(b[by]))) || a.order - b.order;
    const sorted = [...body.rows].sort((a, b) => (down ? -order(a, b) : order(a, b)));
    keyed(rows, sorted, (row) => row.order, () => el("tr", {}, el("td", { class: "wb-c-name" }, el("b"), el("small")), el("td"), el("td"), el("td", { class: "wb-times-seconds" }, el("i", { class: "wb-mini wb-cost" }), el("span"), el("small"))), (each, row) => {
      set(each, { "data-layer": String(row.layer) });
      set(each.children[0].firstChild, { text: row.name, title: row.name });
      set(each.children[0].lastChild, { text: row.what, title: row.what });
      set(each.children[1], { text: row.kernel, title: row.kernel });
      set(each.children[2], { text: row.bits });
      set(each.children[3], { title: row.title });
      set(each.children[3].children[0], { style: { width: `calc(${row.at} * var(--times))` } });
      set(each.children[3].children[1], { text: row.time });
      set(each.children[3].children[2], { text: row.share });
    });
  }
  return { node, draw: (next) => { body = next; draw(); } };
}
