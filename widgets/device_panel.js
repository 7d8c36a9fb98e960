export default part("wb-card wb-elsewhere", (root, send) => {
  const id = `wb-${++serial}-${Math.random().toString(36).slice(2)}`;
  let view = null;
  let offered = "";
  const head = heading("A device that is not here");
  const input = el("select", { id });
  const quiet = el("p", { class: "wb-why", text: "What the recipe would take there, as a range: from the device’s published peaks and the network’s own operations and bytes." });
  const what = el("p", { class: "wb-there-what" });
  const hold = held((value) => { input.value = value; });
  input.addEventListener("change", () => { hold.mine(input.value); send({ do: "choose", name: input.value }); });

  const latency = el("span", { class: "wb-number" });
  const origin = el("span");
  const limit = el("p", { class: "wb-why num" });
  const here = el("p", { class: "wb-why num" });
  const bar = el("div", { class: "wb-there-shares", role: "img" });
  const keys = el("p", { class: "wb-eff-legend num", "aria-hidden": "true" });
  const value = el("div", { class: "wb-there-latency" }, el("div", { class: "wb-head" }, el("span", { class: "wb-name", text: "Latency there" }), origin),
    el("div", { class: "wb-value num", "aria-live": "polite" }, latency), limit, here, bar, keys);
  const reason = el("p", { class: "wb-there-reason" });
  const facts = el("dl", { class: "wb-there-facts" });
  const notes = el("ul", { class: "wb-there-notes" });

  const box = el("input", { type: "text", inputmode: "decimal", id: `${id}-ms`, class: "num", autocomplete: "off", onkeydown: (event) => event.key === "Enter" && stretch() });
  const stretch = () => box.value.trim() && send({ do: "calibrate", ms: box.value });
  const go = el("button", { type: "button", text: "Rescale", onclick: stretch });
  const forget = el("button", { type: "button", class: "wb-plain", text: "Forget it", "aria-label": "Forget the measured latency", onclick: () => { box.value = ""; send({ do: "forget" }); } });
  const stretched = el("p", { class: "wb-why num" });
  const said = el("p", { class: "wb-note", role: "alert" });
  const measured = el("div", { class: "wb-there-measured" }, el("label", { for: `${id}-ms`, text: "Measured there?" }), el("span", { class: "wb-typed" }, box, el("small", { text: "ms" })), go, forget);

  const sources = el("dl");
  const sourced = el("details", {}, el("summary", { text: "Where the figures come from" }), sources);
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...["Operator", "MACs", "Bytes", "FLOP/byte", "Kernel", "Time", "Limit"].map((text) => el("th", { text, scope: "col" })))));
  const body = el("tbody");
  table.append(body);
  const listed = el("details", { ontoggle: () => list() }, el("summary", { text: "All operators as a table" }), el("div", { class: "wb-scroll wb-there-table", tabindex: 0, role: "region", "aria-label": "All operators" }, table));
  const text = el("textarea", { rows: 11, spellcheck: "false", "aria-label": "Profiles as TOML" });
  const add = el("button", { type: "button", text: "Add", onclick: () => send({ do: "add", text: text.value }) });
  const own = el("details", {}, el("summary", { text: "A device of your own" }), el("p", { class: "wb-why", text: "One table a device. What is not known is left out; every figure names its source." }), text, el("div", { class: "wb-actions" }, add));
  const plot = rooflinePlot();
  const left = el("div", { class: "wb-there-side" }, value, reason, facts, notes, measured, stretched);
  const two = el("div", { class: "wb-there-two" }, left, el("div", { class: "wb-there-side" }, el("h3", { text: "Roofline" }), plot.node));
  const more = el("div", { class: "wb-there-more" }, listed, sourced, own);
  root.append(head.node, el("div", { class: "wb-there-pick" }, el("label", { for: id, text: "Elsewhere" }), input, what), quiet, two, said, more);

  /** The table of all operators is made when somebody opens it. */
  function list() {
    const rows = listed.open ? view?.answer?.rows ?? [] : [];
    keyed(body, rows.map((cells, index) => ({ cells, index })), (row) => row.index, (row) => el("tr", {}, ...row.cells.map(() => el("td"))), (node, row) => row.cells.forEach((cell, i) => set(node.children[i], { text: cell })));
  }

  function offer(groups) {
    const now = JSON.stringify(groups);
    if (now === offered) return;
    offered = now;
    input.replaceChildren(el("option", { value: "", text: "Choose a device…" }), ...groups.map((group) =>
      el("optgroup", { label: group.family }, ...group.names.map((name) => el("option", { value: name, text: name })))));
  }

  function draw() {
    const answer = view.answer;
    const found = answer?.latency ?? null;
    set(root, { "data-state": view.state });
    set(head.remark, { text: view.remark });
    offer(view.groups);
    hold.theirs(view.value);
    set(what, { text: answer?.what ?? "" });
    set(quiet, { hidden: view.state !== "empty" });
    set(two, { hidden: !answer });
    set(sourced, { hidden: !answer });
    set(listed, { hidden: !answer?.rows.length });
    if (text.value === "") text.value = view.example;
    set(said, { text: view.said, hidden: !view.said });
    if (!answer) { plot.draw(null); return; }
    set(value, { hidden: !found });
    if (found) {
      set(latency, { text: found.text });
      set(limit, { text: found.limit });
      set(here, { text: found.here });
      if (origin.dataset.origin !== found.origin.word) {
        origin.dataset.origin = found.origin.word;
        origin.replaceChildren(badge(found.origin));
      }
      set(value, { "data-origin": found.origin.origin });
    }
    set(bar, { "aria-label": answer.shares.map((each) => `${each.name} ${each.text}`).join(", ") });
    keyed(bar, answer.shares, (each) => each.name, (each) => el("i", { "data-limit": each.name }), (node, each) => set(node, { style: { width: `${100 * each.share}%` } }));
    keyed(keys, answer.shares, (each) => each.name, (each) => el("span", {}, el("i", { class: "wb-there-key", "data-limit": each.name }), el("span")), (node, each) => set(node.lastChild, { text: `${each.name} ${each.text}` }));
    set(reason, { text: answer.reason, hidden: !answer.reason });
    keyed(facts, answer.facts, (fact) => fact.name, () => el("div", {}, el("dt"), el("dd", {}, el("b"), el("span"))), (node, fact) => {
      set(node.firstChild, { text: fact.name });
      set(node.lastChild.firstChild, { text: fact.word, class: fact.tone ? `wb-${fact.tone}` : null });
      set(node.lastChild.lastChild, { text: fact.text });
    });
    keyed(notes, answer.notes, String, () => el("li"), (node, note) => set(node, { text: note }));
    set(measured, { hidden: !answer.able });
    set(forget, { hidden: !answer.calibration });
    set(stretched, { text: answer.calibration?.text ?? "", hidden: !answer.calibration });
    keyed(sources, answer.sources, (row) => row.name, () => el("div", {}, el("dt"), el("dd")), (node, row) => {
      set(node.firstChild, { text: row.value ? `${row.name}: ${row.value}` : row.name });
      const now = JSON.stringify(row.parts);
      if (node.lastChild.dataset.parts === now) return;
      node.lastChild.dataset.parts = now;
      node.lastChild.replaceChildren(...row.parts.map((piece) => piece.href ? el("a", { href: piece.href, text: piece.text, target: "_blank", rel: "noopener noreferrer" }) : piece.text));
    });
    list();
    set(plot.node.parentElement, { hidden: !answer.roofline });
    plot.draw(answer.roofline);
    measure();
  }

  const measure = () => plot.resize(Math.floor(plot.node.parentElement.clientWidth));
  const end = sized(root, measure);
  return { draw: (next) => { view = next; draw(); }, end };
});
