const COMMON = [2, 3, 4, 6, 8, null];
const COLUMNS = [
  { key: "order", text: "Layer", value: (row) => row.order },
  { key: "parameters", text: "Weights", value: (row) => -row.parameters },
  { key: "bits", text: "Bits", value: (row, field) => row[field] ?? 99 },
  { key: "cost", text: "Costs, points", value: (row) => -(row.cost ?? -Infinity) },
];
const FILTER_FROM = 13;

export default part("wb-card wb-layers", (root, send) => {
  let view = { rows: [] };
  let field = "weight_bits";
  let sort = { key: "cost", up: true };
  let order = []; // names, as they stand
  let active = null; // the row that Tab comes to
  let anchor = null;
  const chosen = new Set();
  const mine = new Map(); // bits just asked for, until Python answers

  const head = heading("Layers");
  const toggle = el("span", { class: "wb-toggle", role: "group", "aria-label": "Which bits" },
    ...[["weight_bits", "weights"], ["activation_bits", "activations"]].map(([name, text]) =>
      el("button", { type: "button", text, "data-field": name, onclick: () => { field = name; draw(); } })));
  head.remark.replaceWith(toggle);
  const filter = el("input", { type: "text", placeholder: "Filter by name", "aria-label": "Filter layers by name", oninput: () => { arrange(true); draw(); } });
  const heads = COLUMNS.map((column) => el("th", { scope: "col" },
    el("button", { type: "button", onclick: () => {
      sort = { key: column.key, up: sort.key === column.key ? !sort.up : true };
      arrange(true);
      draw();
    } }, el("span", { text: column.text }), el("span", { class: "wb-arrow", "aria-hidden": "true" }))));
  const body = el("tbody");
  const table = el("table", { role: "grid", "aria-multiselectable": "true", "aria-label": "Layers", class: "num" },
    el("thead", {}, el("tr", {}, ...heads)), body);
  const scroll = el("div", { class: "wb-scroll" }, table);
  const hint = el("span");
  const reset = el("button", { type: "button", class: "wb-plain", text: "Reset layers", onclick: () => send({ do: "reset", names: targets(true) }) });
  root.append(head.node, filter, scroll, el("div", { class: "wb-foot" }, hint, reset));

  const targets = (all = false) => {
    const some = order.filter((name) => chosen.has(name));
    return some.length ? some : all ? view.rows.map((row) => row.name) : active ? [active] : [];
  };
  const bitsOf = (row) => (mine.has(`${field} ${row.name}`) ? mine.get(`${field} ${row.name}`) : row[field]);

  function arrange(now) {
    // rows do not move under a hand that is on them
    const present = new Set(view.rows.map((row) => row.name));
    const same = order.length === present.size && order.every((name) => present.has(name));
    if (!now && same && (root.matches(":hover") || root.contains(document.activeElement))) return;
    const { value } = COLUMNS.find((column) => column.key === sort.key);
    const word = filter.value.trim().toLowerCase();
    order = view.rows
      .filter((row) => !word || row.name.toLowerCase().includes(word) || row.what.toLowerCase().includes(word))
      .map((row) => [value(row, field), row.order, row.name])
      .sort((a, b) => (a[0] === b[0] ? 0 : a[0] < b[0] ? -1 : 1) * (sort.up ? 1 : -1) || a[1] - b[1])
      .map((entry) => entry[2]);
    for (const name of chosen) if (!present.has(name)) chosen.delete(name);
    if (!order.includes(active)) active = order[0] ?? null;
  }

  function ask(names, bits) {
    if (!names.length) return;
    for (const name of names) {
      const key = `${field} ${name}`;
      mine.set(key, bits);
      setTimeout(() => { if (mine.get(key) === bits && mine.delete(key)) draw(); }, 2000);
    }
    send({ do: "set", names, [field]: bits });
    draw();
  }

  function choose(name, { shift, toggle: extra }) {
    if (shift && anchor && order.includes(anchor)) {
      if (!extra) chosen.clear();
      const [from, to] = [order.indexOf(anchor), order.indexOf(name)].sort((a, b) => a - b);
      order.slice(from, to + 1).forEach((each) => chosen.add(each));
    } else {
      if (extra) chosen.has(name) ? chosen.delete(name) : chosen.add(name);
      else { chosen.clear(); chosen.add(name); }
      anchor = name;
    }
    active = name;
    draw();
  }

  function onkey(event) {
    const at = order.indexOf(active);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -order.length, End: order.length }[event.key];
    if (step !== undefined) {
      const next = order[Math.min(order.length - 1, Math.max(0, at + step))];
      anchor ??= active;
      if (event.shiftKey) choose(next, { shift: true });
      else { active = next; if (!event.ctrlKey && !event.metaKey) { chosen.clear(); anchor = next; } draw(); }
      body.keyedNodes.get(active)?.focus({ preventScroll: false });
    } else if ((event.key === " " || event.key === "Enter") && event.target.tagName === "TR") choose(active, { toggle: true });
    else if (event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey)) { order.forEach((name) => chosen.add(name)); draw(); }
    else if (event.key === "Escape" && chosen.size) { chosen.clear(); draw(); }
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (/^[2-8]$/.test(event.key)) ask(targets(), Number(event.key));
    else if (event.key === "0" || event.key.toLowerCase() === "f") ask(targets(), null);
    else if (event.key === "Delete" || event.key === "Backspace") send({ do: "reset", names: targets() });
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      const buttons = [...(body.keyedNodes.get(active)?.querySelectorAll(".wb-bits button") ?? [])];
      const now = buttons.indexOf(document.activeElement);
      buttons[Math.min(buttons.length - 1, Math.max(0, now + (event.key === "ArrowRight" ? 1 : -1)))]?.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
  body.addEventListener("keydown", onkey);
  body.addEventListener("click", (event) => {
    const node = event.target.closest("tr");
    const button = event.target.closest(".wb-bits button");
    if (!node) return;
    if (button) {
      active = node.name;
      ask(chosen.has(node.name) ? targets() : [node.name], button.bits);
    } else choose(node.name, { shift: event.shiftKey, toggle: event.ctrlKey || event.metaKey });
  });

  function make(row) {
    const cell = (name, ...children) => el("td", { class: `wb-c-${name}`, role: "gridcell" }, ...children);
    const name = el("b");
    const what = el("span");
    const noise = el("span", { class: "wb-noise" });
    const share = el("i", { class: "wb-mini" });
    const number = el("span");
    const bits = el("span", { class: "wb-bits", role: "group" });
    const cost = el("i", { class: "wb-mini wb-cost" });
    const costText = el("span");
    const node = el("tr", { role: "row" }, cell("name", name, el("small", {}, what, noise)), cell("weights", share, number), cell("bits", bits), cell("cost", cost, costText));
    node.name = row.name;
    node.update = (row) => {
      set(node, { "aria-selected": String(chosen.has(row.name)), tabindex: row.name === active ? 0 : -1 });
      const now = bitsOf(row);
      const state = JSON.stringify([row, now, field, row.name === active]);
      if (node.state === state) return;
      node.state = state;
      set(name, { text: row.name, title: row.name });
      set(what, { text: row.what, title: row.what });
      set(noise, { text: row.sqnr && field === "weight_bits" ? ` · ${row.sqnr} dB` : "", title: "Signal to quantization noise of the weights" });
      set(share, { style: { width: `calc(var(--mini) * ${row.share})` } });
      set(number, { text: row.count });
      set(share.parentNode, { title: row.share_title });
      const offered = COMMON.includes(now) ? COMMON : [...COMMON.slice(0, -1), now].sort((a, b) => a - b).concat([null]);
      keyed(bits, offered, String, (value) => {
        const button = el("button", { type: "button", text: value ?? "fp" });
        button.bits = value;
        return button;
      }, (button, value) => set(button, {
        "aria-pressed": String(value === now), tabindex: row.name === active ? 0 : -1, "aria-label": value ? `${value} bits` : "floating point",
      }));
      set(bits, { "aria-label": `${field === "weight_bits" ? "Weight" : "Activation"} bits of ${row.name}` });
      set(cost, { hidden: row.cost === null, style: { width: `calc(var(--mini) * ${row.cost_share})` } });
      set(costText, { text: row.cost_text });
      set(cost.parentNode, { title: row.cost_title, "data-certain": String(row.certain), "data-fresh": String(row.fresh) });
      set(node, { "data-own": String(row.own) });
    };
    return node;
  }

  function draw() {
    const rows = new Map(view.rows.map((row) => [row.name, row]));
    keyed(body, order.filter((name) => rows.has(name)).map((name) => rows.get(name)), (row) => row.name, make, (node, row) => node.update(row));
    COLUMNS.forEach((column, index) => {
      const on = column.key === sort.key;
      set(heads[index], { "aria-sort": on ? (sort.up === ["order", "bits"].includes(column.key) ? "ascending" : "descending") : "none" });
    });
    for (const button of toggle.children) set(button, { "aria-pressed": String(button.dataset.field === field) });
    set(filter, { hidden: view.rows.length < FILTER_FROM });
    set(scroll, { "data-long": String(view.rows.length >= FILTER_FROM) });
    set(hint, { text: chosen.size > 1 ? `${chosen.size} rows selected: a digit sets them all.` : "↑↓ to move, 2–8 to set, 0 for fp32. Shift selects several." });
    set(reset, { disabled: !view.changed, text: chosen.size ? "Reset selected" : "Reset layers" });
  }

  return {
    draw(next) {
      view = next;
      for (const row of view.rows) for (const name of ["weight_bits", "activation_bits"]) {
        if (mine.has(`${name} ${row.name}`) && mine.get(`${name} ${row.name}`) === row[name]) mine.delete(`${name} ${row.name}`);
      }
      arrange(false);
      draw();
    },
  };
});
