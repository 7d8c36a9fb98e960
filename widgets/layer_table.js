const COMMON = [2, 3, 4, 6, 8, null];
const COLUMNS = [
  { key: "order", area: "name", text: "Layer", value: (row) => row.order },
  { key: "parameters", area: "weights", text: "Weights", value: (row) => -row.parameters },
  { key: "bits", area: "bits", text: "Bits", value: (row, bits) => Math.min(...bits.map((each) => each ?? 99)) },
  { key: "cost", area: "cost", text: "Costs", value: (row) => -(row.cost ?? -Infinity) },
];
const LONG_FROM = 13; // layers that get a filter, and a height of their own to scroll in
const AROUND = 8; // rows that are drawn above and below what is seen
const BESIDE = 400; // pixels of a row that are not for the name
const LETTER = 7.2; // pixels, on average
const CHEVRON = "M3.5 1.5L8 6l-4.5 4.5";

export default part("wb-card wb-layers", (root, send) => {
  let view = { rows: [], groups: [], left_alone: { text: "", rows: [] }, cost_head: "" };
  let rows = new Map(); // layers and groups, by key
  let field = "weight_bits";
  let sort = { key: "cost", up: true };
  let ranked = []; // what stands at the top level, as it stands: {key, members}
  let ranking = null; // the layers that this is a ranking of
  let order = []; // keys, as they stand
  let active = null; // the row that Tab comes to
  let anchor = null;
  let first = 0; // of the rows that are drawn
  const open = new Set(); // groups that a person opened
  const found = new Map(); // groups that the filter opened, with those of their members that it lets through
  const chosen = new Set();
  const mine = new Map(); // bits just asked for, until Python answers

  const head = heading("Layers");
  const toggle = el("span", { class: "wb-toggle", role: "group", "aria-label": "Which bits" },
    ...[["weight_bits", "weights"], ["activation_bits", "activations"]].map(([name, text]) =>
      el("button", { type: "button", text, "data-field": name, onclick: () => { field = name; draw(); } })));
  head.remark.replaceWith(toggle);
  const filter = el("input", { type: "text", placeholder: "Filter by name", "aria-label": "Filter layers by name", oninput: () => { arrange(true); toTop(); } });
  const heads = COLUMNS.map((column) => {
    const text = el("span", { text: column.text });
    const node = el("th", { scope: "col", role: "columnheader", class: `wb-c-${column.area}` },
      el("button", { type: "button", onclick: () => {
        sort = { key: column.key, up: sort.key === column.key ? !sort.up : true };
        arrange(true);
        toTop();
      } }, text, el("span", { class: "wb-arrow", "aria-hidden": "true" })));
    return Object.assign(node, { text });
  });
  // the roles are said because a table that is laid out as a grid loses its own
  const body = el("tbody", { role: "rowgroup" });
  const table = el("table", { "aria-multiselectable": "true", "aria-label": "Layers", class: "num" },
    el("thead", { role: "rowgroup" }, el("tr", { role: "row", "aria-rowindex": 1 }, ...heads)), body);
  const scroll = el("div", { class: "wb-scroll", onscroll: () => { if (range().first !== first) draw(); } }, table);
  const hint = el("span");
  const reset = el("button", { type: "button", class: "wb-plain", text: "Reset layers", onclick: () => send({ do: "reset", names: targets(true) }) });
  const summary = el("summary");
  const alone = el("ul");
  const leftAlone = el("details", { class: "wb-alone" }, summary, alone);
  root.append(head.node, filter, scroll, el("div", { class: "wb-foot" }, hint, reset), leftAlone);

  const groupKey = (name) => `group ${name}`;
  const keyOf = (row) => (row.names ? groupKey(row.name) : row.name);
  const groupOf = (key) => (rows.get(key)?.group ? groupKey(rows.get(key).group) : null);
  const namesOf = (row) => (row.names ? found.get(keyOf(row)) ?? row.names : [row.name]);
  const isOpen = (key) => open.has(key) || found.has(key);
  const isChosen = (key) => chosen.has(key) || chosen.has(groupOf(key));
  const why = (row) => row.why[field] ?? "";

  /** Bits of a row, rising, floating point last: several where its layers differ, none where they cannot be set. */
  function bitsOf(row) {
    const able = namesOf(row).map((name) => rows.get(name)).filter((each) => !why(each));
    const bits = able.map((each) => ((!view.proposing && mine.get(`${field} ${each.name}`)) || { bits: each[field] }).bits);
    return rising(bits);
  }

  const rising = (bits) => [...new Set(bits)].sort((a, b) => (a ?? 99) - (b ?? 99));

  /** Bits that a proposal gives to a row's layers, and how many of them it changes. */
  function proposedOf(row) {
    if (!view.proposing) return { bits: [], changed: 0 };
    const able = namesOf(row).map((name) => rows.get(name)).filter((each) => !why(each));
    const bits = able.map((each) => (mine.get(`${field} ${each.name}`) ?? { bits: each.proposed[field] }).bits);
    return { bits: rising(bits), changed: able.filter((each, index) => each[field] !== bits[index]).length };
  }

  function targets(all = false) {
    const keys = order.filter(isChosen);
    if (!keys.length && all) return view.rows.map((row) => row.name);
    return [...new Set((keys.length ? keys : active ? [active] : []).flatMap((key) => namesOf(rows.get(key))))];
  }

  /** Ranks the rows anew; they do not move under a hand that is on them. */
  function arrange(now) {
    const names = [...rows.keys()].join("\n");
    if (!now && names === ranking && (root.matches(":hover") || root.contains(document.activeElement))) return;
    ranking = names;
    const { value } = COLUMNS.find((column) => column.key === sort.key);
    const word = filter.value.trim().toLowerCase();
    const matches = (row) => !word || `${row.name}\n${row.what}`.toLowerCase().includes(word);
    const inOrder = (some) => some
      .map((row) => [value(row, bitsOf(row)), row.order, row])
      .sort((a, b) => (a[0] === b[0] ? 0 : a[0] < b[0] ? -1 : 1) * (sort.up ? 1 : -1) || a[1] - b[1])
      .map((entry) => entry[2]);
    found.clear();
    for (const group of view.groups) {
      const some = matches(group) ? [] : group.names.filter((name) => matches(rows.get(name)));
      if (some.length) found.set(keyOf(group), some);
    }
    const tops = [
      ...view.groups.filter((group) => matches(group) || found.has(keyOf(group))),
      ...view.rows.filter((row) => !row.group && matches(row)),
    ];
    ranked = inOrder(tops).map((row) => ({
      key: keyOf(row),
      members: row.names ? inOrder(namesOf(row).map((name) => rows.get(name))).map(keyOf) : [],
    }));
    for (const key of chosen) if (!rows.has(key)) chosen.delete(key);
    unfold();
  }

  function unfold() {
    order = ranked.flatMap(({ key, members }) => (isOpen(key) ? [key, ...members] : [key]));
    if (!order.includes(active)) active = order.includes(groupOf(active)) ? groupOf(active) : order[0] ?? null;
  }

  function fold(key, opened) {
    if (opened) open.add(key);
    else { open.delete(key); found.delete(key); }
    unfold();
    draw();
  }

  function ask(names, bits) {
    if (!names.length) return;
    const asked = { bits };
    const keys = names.map((name) => `${field} ${name}`);
    for (const key of keys) mine.set(key, asked);
    setTimeout(() => { if (keys.filter((key) => mine.get(key) === asked && mine.delete(key)).length) draw(); }, 2000);
    send({ do: "set", names, [field]: bits });
    draw();
  }

  function choose(key, { shift, toggle: extra }) {
    if (shift && anchor && order.includes(anchor)) {
      if (!extra) chosen.clear();
      const [from, to] = [order.indexOf(anchor), order.indexOf(key)].sort((a, b) => a - b);
      order.slice(from, to + 1).forEach((each) => chosen.add(each));
    } else {
      if (extra) chosen.has(key) ? chosen.delete(key) : chosen.add(key);
      else { chosen.clear(); chosen.add(key); }
      anchor = key;
    }
    active = key;
    draw();
  }

  function focus(key) {
    active = key;
    const height = heightOfRow();
    const top = order.indexOf(key) * height; // the head covers as much of the scroll area as it moves the rows down
    const seen = scroll.clientHeight - table.tHead.offsetHeight - height;
    if (isLong()) scroll.scrollTop = Math.min(top, Math.max(scroll.scrollTop, top - seen));
    draw();
    body.keyedNodes.get(key)?.focus();
  }

  function onkey(event) {
    const at = order.indexOf(active);
    const onRow = event.target.tagName === "TR";
    const row = rows.get(active);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -order.length, End: order.length }[event.key];
    if (step !== undefined) {
      const next = order[Math.min(order.length - 1, Math.max(0, at + step))];
      anchor ??= active;
      if (event.shiftKey) choose(next, { shift: true });
      else if (!event.ctrlKey && !event.metaKey) { chosen.clear(); anchor = next; }
      focus(next);
    } else if ((event.key === " " || event.key === "Enter") && onRow) choose(active, { toggle: true });
    else if (event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey)) { order.forEach((key) => chosen.add(key)); draw(); }
    else if (event.key === "Escape" && chosen.size) { chosen.clear(); draw(); }
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (/^[1-8]$/.test(event.key)) ask(targets(), Number(event.key));
    else if (event.key === "0" || event.key.toLowerCase() === "f") ask(targets(), null);
    else if (event.key === "Delete" || event.key === "Backspace") send({ do: "reset", names: targets() });
    else if (event.key === "ArrowRight" && onRow && row.names && !isOpen(active)) fold(active, true);
    else if (event.key === "ArrowLeft" && onRow && row.names && isOpen(active)) fold(active, false);
    else if (event.key === "ArrowLeft" && onRow && row.group) focus(groupOf(active));
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      const node = body.keyedNodes.get(active);
      const places = [node, ...node.querySelectorAll(".wb-bits button")];
      const now = Math.max(0, places.indexOf(document.activeElement));
      places[Math.min(places.length - 1, Math.max(0, now + (event.key === "ArrowRight" ? 1 : -1)))].focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
  body.addEventListener("keydown", onkey);
  body.addEventListener("focusin", (event) => { // also by what reads the page aloud
    const { key } = event.target.closest(".wb-one");
    if (key !== active) { active = key; draw(); }
  });
  body.addEventListener("click", (event) => {
    const node = event.target.closest(".wb-one");
    const button = event.target.closest(".wb-bits button");
    if (!node) return;
    if (event.target.closest(".wb-fold")) {
      active = node.key;
      fold(node.key, !isOpen(node.key));
    } else if (button) {
      active = node.key;
      ask(isChosen(node.key) ? targets() : namesOf(rows.get(node.key)), button.bits);
    } else choose(node.key, { shift: event.shiftKey, toggle: event.ctrlKey || event.metaKey });
  });

  function make(row) {
    const key = keyOf(row);
    const cell = (name, ...children) => el("td", { class: `wb-c-${name}`, role: "gridcell" }, ...children);
    const name = el("bdi", { dir: "ltr", text: row.name, title: row.name });
    const mixed = el("em");
    const proposed = el("em", { class: "wb-step" });
    const reason = el("small", { class: "wb-reason" });
    const what = el("span");
    const noise = el("span", { class: "wb-noise", title: "Signal to quantization noise of the weights" });
    const share = el("i", { class: "wb-mini" });
    const number = el("span");
    const bits = el("span", { class: "wb-bits", role: "group" });
    const cost = el("i", { class: "wb-mini wb-cost" });
    const costText = el("span");
    const opener = row.names ? [el("button", { type: "button", class: "wb-fold" },
      svg("svg", { viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" }, svg("path", { d: CHEVRON, fill: "none", stroke: "currentColor", "stroke-width": 1.6 })))] : [];
    const node = el("tr", { role: "row", class: "wb-one", "data-level": row.group ? 2 : 1 },
      cell("name", ...opener, el("b", { dir: "rtl" }, name), el("small", {}, proposed, mixed, what, noise), reason),
      cell("weights", share, number), cell("bits", bits), cell("cost", cost, costText));
    node.key = key;
    node.update = (row, index) => {
      const tab = key === active ? 0 : -1;
      set(node, { "aria-selected": String(isChosen(key)), tabindex: tab, "aria-rowindex": index + 2 });
      const now = bitsOf(row);
      const names = namesOf(row);
      const next = proposedOf(row);
      const state = JSON.stringify([row, now, next, field, tab, isOpen(key), names.length, view.groups.length]);
      if (node.state === state) return;
      node.state = state;
      const which = field === "weight_bits" ? "Weight" : "Activation";
      const no = now.length ? "" : why(rows.get(names[0]));
      const of = row.names ? `${names.length < row.names.length ? `${names.length} of ` : ""}${row.names.length} layers · ` : "";
      set(node, {
        "data-own": String(row.own),
        "aria-level": view.groups.length ? (row.group ? 2 : 1) : null,
        "aria-expanded": row.names ? String(isOpen(key)) : null,
      });
      if (row.names) set(opener[0], { tabindex: tab, "aria-expanded": String(isOpen(key)), "aria-label": `${isOpen(key) ? "Fold" : "Show"} the layers of ${row.name}` });
      set(mixed, { hidden: now.length < 2, text: `mixed: ${now.map((each) => each ?? "fp").join(", ")}` });
      const told = (bits) => bits.map((each) => each ?? "fp").join(", ");
      const step = !next.changed ? "" : row.names ? `proposal changes ${next.changed} of ${names.length}` : `${told(now)} → ${told(next.bits)}`;
      set(proposed, { hidden: !step, text: step });
      set(what, { text: of + (no || row.what), title: of + (no || row.what) });
      set(reason, { text: row.reason ?? "", title: row.reason ?? null, hidden: !view.proposing });
      set(noise, { text: row.sqnr && field === "weight_bits" ? ` · ${row.sqnr} dB` : "" });
      set(share, { style: { width: `calc(var(--mini) * ${row.share})` } });
      set(number, { text: row.count });
      set(share.parentNode, { title: row.share_title });
      const offered = [...new Set([...COMMON.slice(0, -1), ...now.filter(Boolean)])].sort((a, b) => a - b).concat([null]);
      keyed(bits, offered, String, (value) => {
        const button = el("button", { type: "button", text: value ?? "fp", "aria-label": value ? `${value} bits` : "floating point" });
        button.bits = value;
        return button;
      }, (button, value) => set(button, {
        "aria-pressed": no ? String(value === null) : !now.includes(value) ? "false" : now.length > 1 ? "mixed" : "true",
        "aria-disabled": no ? "true" : null,
        "data-proposed": next.bits.includes(value) ? String(!now.includes(value)) : null,
        "aria-label": `${value ? `${value} bits` : "floating point"}${next.bits.includes(value) && !now.includes(value) ? ", proposed" : ""}`,
        tabindex: tab,
      }));
      set(bits, { "aria-label": `${which} bits of ${of}${row.name}${no && `: stays in fp32, ${no}`}`, title: no || null, "data-no": String(Boolean(no)) });
      set(cost, { hidden: row.cost === null, style: { width: `calc(var(--mini) * ${row.cost_share})` } });
      set(costText, { text: row.cost_text });
      set(cost.parentNode, { title: row.cost_title, "data-certain": String(row.certain), "data-fresh": String(row.fresh) });
    };
    return node;
  }

  // of hundreds of rows only those that can be seen are drawn, and gaps as high as the others

  const isLong = () => view.rows.length >= LONG_FROM;
  const heightOfRow = () => body.querySelector(".wb-one")?.offsetHeight || 48;

  function range() {
    if (!isLong()) return { first: 0, last: order.length };
    const height = heightOfRow();
    const seen = scroll.clientHeight || 420;
    const top = Math.min(scroll.scrollTop, Math.max(0, order.length * height - seen));
    const at = Math.floor(top / height / 4) * 4; // a few rows at a time
    return { first: Math.max(0, at - AROUND), last: Math.min(order.length, at + Math.ceil(seen / height) + AROUND + 4) };
  }

  function drawRows() {
    const seen = range();
    first = seen.first;
    const height = heightOfRow();
    const at = order.indexOf(active); // is drawn wherever it is: the focus may be on it
    const indexes = Array.from({ length: seen.last - seen.first }, (_, index) => seen.first + index);
    if (at >= 0 && at < seen.first) indexes.unshift(at);
    if (at >= seen.last) indexes.push(at);
    const items = [];
    let next = 0;
    let gaps = 0;
    const gap = (end) => { if (end > next) items.push({ key: `gap ${++gaps}`, height: (end - next) * height }); };
    for (const index of indexes) {
      gap(index);
      items.push({ key: order[index], row: rows.get(order[index]), index });
      next = index + 1;
    }
    gap(order.length);
    keyed(body, items, (item) => item.key, (item) => (item.row ? make(item.row) : el("tr", { class: "wb-gap", role: "presentation" })),
      (node, item) => (item.row ? node.update(item.row, item.index) : set(node, { style: { height: `${item.height}px` } })));
    set(table, { role: view.groups.length ? "treegrid" : "grid", "aria-rowcount": order.length + 1 });
  }

  function toTop() {
    scroll.scrollTop = 0;
    draw();
  }

  function draw() {
    drawRows();
    COLUMNS.forEach((column, index) => {
      const on = column.key === sort.key;
      set(heads[index], { "aria-sort": on ? (sort.up === ["order", "bits"].includes(column.key) ? "ascending" : "descending") : "none" });
    });
    for (const button of toggle.children) set(button, { "aria-pressed": String(button.dataset.field === field) });
    const some = chosen.size ? targets().length : 0;
    set(hint, { text: view.proposing ? "Dashed: proposed. Bits that you set here change the proposal." : some > 1 ? `${some} layers selected: a digit sets them all.` : "↑↓ to move, 1–8 to set, 0 for fp32. Shift selects several." });
    set(reset, { hidden: Boolean(view.proposing), disabled: !view.changed, text: chosen.size ? "Reset selected" : "Reset layers" });
  }

  /** What depends on all the rows and not on where one is: widths, that they do not change under the scrolling hand. */
  function measure() {
    const all = [...rows.values()];
    const longest = (text) => Math.max(1, ...all.map((row) => text(row).length));
    const odd = new Set(view.rows.flatMap((row) => [row.weight_bits, row.activation_bits]).filter((bits) => !COMMON.includes(bits)));
    set(heads[3].text, { text: view.cost_head });
    set(filter, { hidden: !isLong() });
    set(scroll, { "data-long": String(isLong()) });
    set(table, {
      "data-deep": String(LETTER * longest((row) => row.name) > (scroll.clientWidth || 460) - BESIDE), // names get a line of their own
      "data-proposing": String(Boolean(view.proposing)),
      "data-groups": String(view.groups.length > 0),
      style: { "--counted": longest((row) => row.count), "--written": longest((row) => row.cost_text), "--offered": COMMON.length + odd.size },
    });
    set(leftAlone, { hidden: !view.left_alone.text });
    set(summary, { text: view.left_alone.text });
    keyed(alone, view.left_alone.rows, (row) => row.name, (row) => el("li", {}, el("b", { text: row.name }), el("span")), (node, row) => set(node.lastChild, { text: row.why }));
  }

  const end = sized(scroll, () => { measure(); draw(); });

  return {
    draw(next) {
      view = next;
      rows = new Map([...view.rows, ...view.groups].map((row) => [keyOf(row), row]));
      for (const row of view.rows) for (const name of ["weight_bits", "activation_bits"]) {
        if (mine.get(`${name} ${row.name}`)?.bits === (view.proposing ? row.proposed : row)[name]) mine.delete(`${name} ${row.name}`);
      }
      measure();
      arrange(false);
      draw();
    },
    end,
  };
});
