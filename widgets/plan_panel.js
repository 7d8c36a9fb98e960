/** Budget sliders and the proposal under the plot: `{node, draw(view)}`. */
function planner(send) {
  let kind = "size";
  let view = null;
  const learning = el("p", { class: "wb-why" });
  const learn = el("button", { type: "button", text: "Learn what each layer costs", onclick: () => send({ do: "learn" }) });
  const takes = el("span", { class: "wb-why" });
  const ask = el("div", { class: "wb-actions" }, learn, takes);
  const stop = el("button", { type: "button", class: "wb-plain", text: "Stop", onclick: () => send({ do: "stop_learning" }) });
  const row = el("div", { class: "wb-budget" });
  const title = el("span", { class: "wb-name", text: "Budget" });
  const toggle = el("span", { class: "wb-toggle", role: "group", "aria-label": "Budget of" });
  const sliders = el("div", { class: "wb-slides" });
  // beside size or loss, for as long as something stands in the box; a call takes milliseconds where a person reads
  const most = el("input", { type: "text", inputmode: "decimal", class: "num", "aria-label": "Latency at most, milliseconds", placeholder: "any" });
  const fast = el("label", { class: "wb-typed wb-fast", title: "Kernels are timed for it; 2 to 8 bits run in the same ones" }, el("span", { text: "latency ≤" }), most, el("small", { text: "ms" }));
  const latency = () => {
    const typed = most.value.trim().replaceAll(",", "");
    return typed ? { max_latency: Number.isFinite(Number(typed)) ? Number(typed) / 1000 : typed } : {};
  };
  const propose = (budget, value) => send({ do: "propose", [budget.kind === "size" ? "max_bytes" : "max_drop"]: value, ...latency() });
  row.append(title, toggle, sliders, fast);
  most.addEventListener("change", () => {
    const budget = view.budgets.find((each) => each.kind === kind);
    if (budget) propose(budget, budget.value);
  });

  function makeSlider(budget) {
    let shown = budget;
    const input = el("input", { type: "range", min: 0, step: 1, "aria-label": `${budget.title} budget` });
    const box = el("input", { type: "text", inputmode: "decimal", "aria-label": `${budget.title} budget as a number`, class: "num" });
    const unit = el("small");
    const node = el("div", { class: "wb-slide" }, input, el("span", { class: "wb-typed" }, box, unit));
    const later = throttle((value) => propose(shown, value));
    const write = (index) => {
      input.style.setProperty("--at", index / Math.max(1, shown.values.length - 1));
      set(input, { "aria-valuetext": shown.spoken[index] ?? "" });
    };
    const hold = held((value, text) => {
      const index = Math.max(0, shown.values.indexOf(value));
      if (Number(input.value) !== index) input.value = index;
      write(index);
      if (document.activeElement !== box) box.value = text || shown.texts[index];
    });
    const slid = () => {
      const index = Number(input.value);
      write(index);
      box.value = shown.texts[index];
      hold.mine(shown.values[index]);
      later(shown.values[index]);
    };
    set(input, {
      oninput: slid, onpointerdown: () => hold.hold(true), onpointerup: () => hold.hold(false), onpointercancel: () => hold.hold(false), onblur: () => hold.hold(false),
      onkeydown: (event) => {
        const step = { PageUp: 6, PageDown: -6 }[event.key];
        if (!step) return;
        event.preventDefault();
        input.value = Number(input.value) + step;
        slid();
      },
    });
    box.addEventListener("change", () => {
      const typed = Number(box.value.trim().replaceAll(",", "").replace("−", "-"));
      propose(shown, box.value.trim() && Number.isFinite(typed) ? typed * shown.factor : box.value);
    });
    node.update = (next) => {
      shown = next;
      set(unit, { text: next.unit });
      set(input, { max: next.values.length - 1 });
      set(node, { hidden: next.kind !== kind });
      hold.theirs(next.value, next.written);
    };
    return node;
  }

  const sign = el("span", { class: "wb-sign" });
  const name = el("b");
  const size = el("span");
  const loss = el("span");
  const took = el("span");
  const edited = el("em", { text: "edited", class: "wb-tag" });
  const note = el("p", { class: "wb-note" });
  const exchanges = el("div", { class: "wb-exchanges" });
  const improving = el("span", { class: "wb-why num" });
  const button = (text, what, css) => el("button", { type: "button", class: css ?? null, text, onclick: () => send({ do: what }) });
  const take = button("Try it", "take", "wb-go");
  const improve = button("Improve by measuring", "improve");
  const halt = button("Stop measuring", "stop_improving");
  const discard = button("Discard", "discard", "wb-plain");
  const proposal = el("div", { class: "wb-proposal", role: "group", "aria-label": "Proposal" },
    el("p", { class: "num", "aria-live": "polite" }, sign, name, " ", edited, el("span", { class: "wb-costs" }, size, " · ", loss, took)), note, exchanges,
    el("div", { class: "wb-actions" }, take, improve, halt, discard, improving));
  const alone = el("p", { class: "wb-why" });
  const reason = el("span", { class: "wb-why" });
  const instead = el("button", { type: "button", onclick: () => send({ do: "plan_otherwise" }) });
  const obstacle = el("div", { class: "wb-obstacle" }, reason, instead);
  const node = el("div", { class: "wb-plan" }, el("div", { class: "wb-learning" }, learning, stop), ask, obstacle, alone, row, proposal);

  function draw() {
    const p = view.proposal;
    const kinds = view.budgets.map((budget) => budget.kind);
    if (!kinds.includes(kind)) kind = kinds[0] ?? "size";
    set(node, { hidden: !(view.learning || view.takes || view.alone || view.obstacle || kinds.length || p) });
    set(learning, { text: view.learning });
    set(learning.parentNode, { hidden: !view.learning });
    set(stop, { hidden: !view.can_stop });
    set(ask, { hidden: !view.takes });
    set(takes, { text: `${view.takes} here; then bits are predicted and planned at once.` });
    set(obstacle, { hidden: !view.obstacle });
    set(reason, { text: view.obstacle?.reason ?? "" });
    set(instead, { text: view.obstacle?.instead ?? "", hidden: !view.obstacle?.instead });
    set(alone, { text: view.alone, hidden: !view.alone });
    set(row, { hidden: !kinds.length });
    keyed(toggle, kinds.length > 1 ? view.budgets : [], (budget) => budget.kind,
      (budget) => el("button", { type: "button", text: budget.title.toLowerCase(), onclick: () => { kind = budget.kind; draw(); } }),
      (each, budget) => set(each, { "aria-pressed": String(budget.kind === kind) }));
    keyed(sliders, view.budgets, (budget) => budget.kind, makeSlider, (each, budget) => each.update(budget));
    set(proposal, { hidden: !p });
    if (!p) return;
    if (sign.dataset.origin !== p.origin) {
      sign.dataset.origin = p.origin;
      sign.replaceChildren(badge({ origin: p.origin, word: p.origin }));
    }
    set(proposal, { "data-origin": p.origin });
    set(name, { text: p.name, title: p.name });
    set(edited, { hidden: !p.edited });
    set(size, { text: p.size });
    pieces(loss, p.loss);
    set(took, { text: p.latency ? ` · ${p.latency}` : "" });
    set(note, { text: p.note, hidden: !p.note });
    set(exchanges, { hidden: !p.exchanges.length });
    keyed(exchanges, p.exchanges, String, () => el("p", { class: "wb-why num" }), (each, text) => set(each, { text }));
    set(improve, { hidden: Boolean(p.improving), disabled: !p.can_improve, title: p.why_not || "Measures 20 mixes near it and keeps the best" });
    set(halt, { hidden: !p.improving });
    set(improving, { text: p.improving, hidden: !p.improving });
  }
  return { node, draw: (next) => { view = next; draw(); } };
}
