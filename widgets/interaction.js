/** What each lever loses alone, and all together: bars from a common zero, with their intervals. */
function interactionPlot() {
  const list = el("ul", { class: "wb-levers num", "aria-label": "Points lost by each lever" });
  const said = el("p", { class: "wb-said num", role: "status" });
  const node = el("div", {}, list, said);
  const percent = (at) => `${(100 * at).toFixed(2)}%`;

  function make() {
    const [name, bytes, number, spoken] = [el("b"), el("small"), el("span", { class: "wb-lever-number" }), el("span", { class: "wb-hidden" })];
    const [zero, bar, whisker] = ["one", "bar", "whisker"].map((kind) => el("i", { class: `wb-fall-${kind}` }));
    const node = el("li", {}, spoken, el("span", { class: "wb-lever-name", "aria-hidden": "true" }, name, bytes), el("span", { class: "wb-fall-track", "aria-hidden": "true" }, zero, bar, whisker), number);
    set(number, { "aria-hidden": "true" });
    node.update = (row, at) => {
      set(node, { "data-kind": row.kind, "data-certain": String(row.certain), "data-worse": String(row.worse) });
      set(spoken, { text: row.spoken });
      set(name, { text: row.name });
      set(bytes, { text: row.size });
      set(zero, { style: { left: percent(at) } });
      set(bar, { style: { left: percent(row.from), width: percent(row.to - row.from) } });
      set(whisker, { style: { left: percent(row.low), width: percent(row.high - row.low) } });
      set(number, { text: row.text });
    };
    return node;
  }

  return {
    node,
    draw(body) {
      keyed(list, body.rows, (row) => row.name, make, (each, row) => each.update(row, body.zero));
      set(said, { text: body.said, hidden: !body.said, "data-tone": body.tone });
    },
  };
}
