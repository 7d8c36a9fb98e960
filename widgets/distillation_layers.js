/** Pairs of hidden layers: in each row one of the student's and the teacher's from which it learns. */
function layerPairs(send) {
  const list = el("ul", { class: "wb-layer-pairs", "aria-label": "Pairs of layers" });
  const add = el("button", { type: "button", text: "Add a pair" });
  const propose = el("button", { type: "button", class: "wb-plain", text: "As proposed", onclick: () => send({ do: "propose" }) });
  const head = el("p", { class: "wb-line", "aria-hidden": "true", text: "A layer of the student, and the teacher’s from which it learns:" });
  const node = el("div", { class: "wb-pairing" }, head, list, el("div", { class: "wb-actions" }, add, propose));
  let next = null;
  add.addEventListener("click", () => send({ do: "pair", instead: "", ...next }));
  const make = ({ name }) => {
    const row = el("li");
    const mine = chooser("", (value) => send({ do: "pair", instead: name, student: value, teacher: row.teacher }));
    const theirs = chooser("", (value) => send({ do: "pair", instead: name, student: name, teacher: value }));
    const remove = el("button", { type: "button", class: "wb-plain", text: "✕", "aria-label": `Remove the pair of ${name}`, onclick: () => send({ do: "unpair", student: name }) });
    set(mine.input, { "aria-label": `Student’s layer, ${name}` });
    set(theirs.input, { "aria-label": `Teacher’s layer for ${name}` });
    row.append(mine.input, remove, el("span", { text: "←", "aria-hidden": "true" }), theirs.input);
    row.draw = (item, disabled, only) => {
      row.teacher = item.teacher.value;
      mine.update(item.student);
      theirs.update(item.teacher);
      set(remove, { disabled: disabled || only });
    };
    return row;
  };
  return {
    node,
    update(view) {
      next = view.next;
      set(node, { hidden: view.hidden });
      keyed(list, view.rows, (item) => item.name, make, (row, item) => row.draw(item, view.disabled, view.rows.length < 2));
      set(head, { hidden: !view.rows.length });
      set(add, { disabled: view.disabled || !next });
      set(propose, { hidden: !view.own });
    },
  };
}

/** The width of single layers: one is picked, then its share; a line says which have one of their own. */
function layerWidths(send) {
  let picked = null;
  let view = { layers: [], shares: [] };
  const layer = chooser("Single layer", (value) => {
    picked = value;
    draw();
  });
  const share = chooser("Its share", (value) => send({ do: "widen", layer: picked, share: value }));
  const line = el("p", { class: "wb-line" });
  const node = el("div", {}, layer.node, share.node, line);
  function draw() {
    const now = view.layers.find((each) => each.value === picked) ?? view.layers[0];
    picked = now?.value ?? null;
    layer.update({ options: view.layers.map(({ value, text }) => ({ value, text, disabled: false })), value: picked, disabled: view.disabled });
    share.update({ options: view.shares, value: now?.share ?? null, disabled: view.disabled });
  }
  return {
    node,
    update(next) {
      view = next;
      set(node, { hidden: view.hidden });
      set(line, { text: view.line, hidden: !view.line });
      draw();
    },
  };
}
