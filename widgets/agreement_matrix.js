/** Teacher's answers as rows, the student's as columns; a cell with examples in it can be looked into. */
function agreementMatrix(send) {
  const said = el("p", { class: "wb-why num" });
  const top = el("tr");
  const rows = el("tbody");
  const table = el("table", { class: "wb-heat wb-matrix num", "aria-label": "The teacher’s answers in rows, the student’s in columns" }, el("thead", {}, top), rows);
  const pairs = el("ul", { class: "wb-pairs num", "aria-label": "Confused most" });
  const node = el("div", {}, said, table, el("p", { class: "wb-why", text: "Rows: the teacher’s answer; columns: the student’s. Most often, where they differ:" }), pairs);
  const arrows = (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const lines = [...rows.children].map((line) => [...line.querySelectorAll("button")]);
    const y = lines.findIndex((line) => line.includes(event.target));
    lines[y + step[1]]?.[lines[y].indexOf(event.target) + step[0]]?.focus();
  };
  rows.addEventListener("keydown", arrows);
  const cell = (row) => (item) => el("td", {}, el("button", { type: "button", onclick: () => send({ do: "pair", row, column: item.key }) }));

  return {
    node,
    draw(body) {
      set(said, { text: body.said });
      set(table, { hidden: !body.rows.length });
      keyed(top, [{ name: "", at: -1 }, ...body.classes.map((name, at) => ({ name, at }))], (each) => each.at, () => el("th", { scope: "col" }), (each, { name }) => set(each, { text: name.slice(0, 3), title: name, "aria-label": name || null }));
      keyed(rows, body.rows.map((row, at) => ({ ...row, at })), (row) => row.at, () => el("tr", {}, el("th", { scope: "row" })), (line, row) => {
        set(line.firstChild, { text: row.name, title: row.name });
        line.cells_ ??= row.cells.map((item) => line.appendChild(cell(row.at)(item)));
        row.cells.forEach((item, i) => set(line.cells_[i].firstChild, { text: item.text, "aria-label": item.spoken, title: item.spoken, "data-same": String(item.same), disabled: !item.text || item.same, tabindex: item.text && !item.same ? 0 : -1, style: { "--shade": item.shade } }));
      });
      keyed(pairs, body.pairs, (pair) => `${pair.row} ${pair.column}`, (pair) => el("li", {}, el("button", { type: "button", class: "wb-link", onclick: () => send({ do: "pair", row: pair.row, column: pair.column }) }, el("span"), el("b"))), (each, pair) => {
        set(each.firstChild.children[0], { text: `${pair.teacher} → ${pair.student} ` });
        set(each.firstChild.children[1], { text: pair.text });
      });
    },
  };
}
