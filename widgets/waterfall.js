/** From plain PyTorch to the recipe: a row a step, its bar from the total before it to the total after it. */
function waterfallPlot() {
  const rows = el("ol", { class: "wb-fall" });
  const axis = el("div", { class: "wb-fall-axis num", "aria-hidden": "true" });
  const total = el("p", { class: "wb-fall-total num", "aria-live": "polite" });
  const levers = el("ul", { class: "wb-fall-levers num" });
  const node = el("div", {}, rows, axis, total, levers);
  const percent = (at) => `${(100 * at).toFixed(2)}%`;

  function make() {
    const name = el("b");
    const key = el("i", { class: "wb-fall-lever" });
    const bar = el("i", { class: "wb-fall-bar" });
    const whisker = el("i", { class: "wb-fall-whisker" });
    const one = el("i", { class: "wb-fall-one" });
    const time = el("span", { class: "num" });
    const factor = el("span", { class: "num wb-fall-factor" });
    const note = el("small");
    const spoken = el("span", { class: "wb-hidden" });
    const node = el("li", {}, spoken, el("div", { class: "wb-fall-row", "aria-hidden": "true" }, el("span", { class: "wb-fall-name" }, key, name), el("span", { class: "wb-fall-track" }, one, bar, whisker), time, factor), note);
    node.update = (row, at) => {
      set(node, { "data-kind": row.kind, "data-lever": row.lever });
      set(spoken, { text: row.spoken });
      set(name, { text: row.name, title: row.name });
      set(one, { style: { left: percent(at) } });
      set(bar, { style: { left: percent(row.from), width: percent(row.to - row.from) } });
      set(whisker, { style: { left: percent(row.low), width: percent(row.high - row.low) } });
      set(time, { text: row.time });
      set(factor, { text: row.kind === "skipped" ? "skipped" : row.factor });
      set(note, { text: row.note, title: row.note || null, "aria-hidden": "true" });
    };
    return node;
  }

  return {
    node,
    draw(body) {
      keyed(rows, body.rows.map((row, index) => ({ ...row, index })), (row) => row.index, make, (each, row) => each.update(row, body.one));
      keyed(axis, body.ticks, (tick) => tick.text, () => el("span"), (each, tick) => set(each, { text: tick.text, style: { left: percent(tick.at) } }));
      set(total, { text: body.total ? `${body.total} the speed of plain PyTorch in all` : "" });
      keyed(levers, body.levers, (each) => each.name, () => el("li", {}, el("i", { class: "wb-fall-lever" }), el("span"), el("b")), (each, lever) => {
        set(each, { "data-lever": lever.lever, "data-certain": String(lever.certain) });
        set(each.children[1], { text: lever.name });
        set(each.children[2], { text: lever.text });
      });
    },
  };
}
