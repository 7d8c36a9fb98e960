const TALL = 74; // of a histogram
const MANY = 10; // layers that are shown before one asks for all

/** A bar with its interval as a whisker; `split` is the weights' share of it. */
function effectBar() {
  const fill = el("i", { class: "wb-eff-fill" });
  const rest = el("i", { class: "wb-eff-rest" });
  const whisker = el("i", { class: "wb-eff-whisker" });
  const number = el("span", { class: "wb-eff-number" });
  const node = el("span", { class: "wb-eff" }, el("span", { class: "wb-eff-track", "aria-hidden": "true" }, fill, rest, whisker), number);
  const percent = (x) => `${(100 * x).toFixed(2)}%`;
  node.update = (bar) => {
    const split = bar.split ?? null;
    set(node, { title: bar.title || null, "data-certain": String(bar.certain), "data-empty": String(!bar.text), "data-split": String(split !== null) });
    set(fill, { style: { width: percent(split === null ? bar.at : bar.at * split) } });
    set(rest, { style: { left: percent(bar.at * (split ?? 0)), width: percent(split === null ? 0 : bar.at * (1 - split)) } });
    set(whisker, { style: { left: percent(bar.low), width: percent(bar.high - bar.low) } });
    set(number, { text: bar.text });
  };
  return node;
}

/** Before as grey steps, after as blue bars, the ends of the grids as dashed lines. */
function histogram(plot) {
  const width = 260;
  const n = plot.before.length;
  const x = (at) => (at * width).toFixed(1);
  const y = (height) => (TALL - height * (TALL - 6)).toFixed(1);
  const before = plot.before.map((h, i) => `${i ? "L" : "M"}${x(i / n)} ${y(h)}L${x((i + 1) / n)} ${y(h)}`).join("");
  const bars = plot.after.map((h, i) => (h ? svg("rect", { class: "wb-h-after", x: x(i / n + 0.1 / n), width: (0.8 * width / n).toFixed(2), y: y(h), height: (h * (TALL - 6)).toFixed(1) }) : null)).filter(Boolean);
  const inside = (at) => Math.min(1, Math.max(0, at));
  const limits = plot.limits.flatMap(({ from, to }) => [
    ...(to - from > 0.004 ? [svg("rect", { class: "wb-h-range", x: x(inside(from)), width: ((inside(to) - inside(from)) * width).toFixed(1), y: 0, height: TALL })] : []),
    ...[...new Set([from, to])].filter((at) => at >= -0.001 && at <= 1.001).map((at) => svg("line", { class: "wb-h-limit", x1: x(at), x2: x(at), y1: 0, y2: TALL })),
  ]);
  const values = plot.values.map((at) => svg("line", { class: "wb-h-value", x1: x(at), x2: x(at), y1: TALL, y2: TALL + 4 }));
  const picture = svg("svg", { viewBox: `-2 0 ${width + 4} ${TALL + 6}`, role: "img", "aria-label": plot.label, preserveAspectRatio: "none" },
    svg("path", { class: "wb-h-before", d: `M0 ${TALL}${before.replace("M", "L")}L${width} ${TALL}Z` }), ...bars, ...limits,
    svg("line", { class: "wb-grid", x1: 0, x2: width, y1: TALL, y2: TALL }), ...values);
  return el("figure", { class: "wb-hist" }, el("figcaption", {}, el("b", { text: plot.name }), el("span", { text: ` ${plot.told}` })), picture,
    el("div", { class: "wb-hist-ends num" }, el("span", { text: plot.ends[0] }), el("span", { text: plot.ends[1] })));
}

export default part("wb-card wb-explain", (root, send) => {
  let view = { rows: [], histograms: {}, flips: null };
  let all = false;
  let model = null;
  const open = new Set();
  const waiting = new Map(); // histograms that were asked for, and of which recipe

  const head = heading("Explanation");
  const ask = el("button", { type: "button", onclick: () => send({ do: "explain" }) });
  const why = el("span", { class: "wb-why" });
  const meter = el("i");
  const gauge = el("span", { class: "wb-eff-meter", role: "progressbar", "aria-label": "Progress of the explanation", "aria-valuemin": 0, "aria-valuemax": 100 }, meter);
  const said = el("span", { class: "wb-why num", "aria-live": "polite" });
  const stop = el("button", { type: "button", class: "wb-plain", text: "Cancel", "aria-label": "Cancel the explanation", onclick: () => send({ do: "stop" }) });
  const running = el("span", { class: "wb-eff-running" }, gauge, said, stop);
  const answer = el("p", { class: "wb-eff-answer", role: "status", "aria-live": "polite" });
  const mark = el("span");
  const keeps = el("span", { class: "wb-eff-keeps" });
  const heads = el("div", { class: "wb-eff-head", "aria-hidden": "true" }, el("span"), el("span"), el("span"));
  const legend = el("p", { class: "wb-eff-legend", "aria-hidden": "true" },
    el("i", { class: "wb-eff-fill" }), "weights", el("i", { class: "wb-eff-rest" }), "activations", el("i", { class: "wb-eff-fill wb-eff-grey" }), "not distinguishable");
  const list = el("ul", { class: "wb-eff-rows", "aria-label": "Layers by what they cost" });
  const more = el("button", { type: "button", class: "wb-plain", onclick: () => { all = !all; draw(); } });
  const notes = el("p", { class: "wb-why" });
  const flips = flipList(send);
  root.append(head.node, el("div", { class: "wb-eff-said" }, el("span", { class: "wb-eff-found" }, answer, mark, keeps), running, ask, why),
    el("div", { class: "wb-eff-two" }, el("div", { class: "wb-eff-side" }, heads, list, more, legend, notes), flips.node));

  function make(row) {
    const name = el("bdi", { dir: "ltr" }); // in a line from right to left, so that a long name keeps its end
    const what = el("small");
    const off = effectBar();
    const on = effectBar();
    const spoken = el("span", { class: "wb-hidden" });
    const button = el("button", { type: "button", class: "wb-eff-row", onclick: () => toggle(row.name) },
      el("span", { class: "wb-eff-name" }, el("b", { dir: "rtl" }, name), what), off, on, spoken);
    const panel = el("div", { class: "wb-eff-panel" });
    const node = el("li", {}, button, panel);
    let drawn = "";
    node.update = (row) => {
      const opened = open.has(row.name);
      set(node, { "data-hurts": String(row.hurts), "data-layer": row.name });
      set(button, { "aria-expanded": String(opened), title: opened ? "Fold" : "Show its weights and its input" });
      set(name, { text: row.name, title: row.name });
      set(what, { text: row.what });
      off.update(row.off);
      on.update(row.on);
      set(spoken, { text: [row.off.title, row.on.title].filter(Boolean).join(". ") });
      set(panel, { hidden: !opened });
      if (!opened) return;
      const found = view.histograms[row.name];
      const state = JSON.stringify([found, row.parts, row.noise, row.off, row.on]);
      if (state === drawn) return;
      drawn = state;
      const facts = [row.off.title, row.on.title && `${row.on.title}${row.parts && row.on.certain ? `: ${row.parts}` : ""}`, row.noise].filter(Boolean);
      panel.replaceChildren(...facts.map((text) => el("p", { class: "wb-why num", text })),
        ...(found ? [el("div", { class: "wb-hists" }, ...found.plots.map(histogram)),
          el("p", { class: "wb-why", text: `Grey: before; blue: on the grid; dashed: its ends${found.plots.some((p) => p.limits.some((l) => l.to - l.from > 0.004)) ? ", which differ from channel to channel" : ""}. Heights are square roots of counts.${found.notes.length ? ` ${found.notes.join("; ")}.` : ""}` })]
          : [el("p", { class: "wb-why", text: "Drawing…" })]));
    };
    return node;
  }

  function toggle(name) {
    if (open.has(name)) open.delete(name);
    else {
      open.add(name);
      if (!view.histograms[name]) {
        waiting.set(name, view.of);
        send({ do: "histogram", layer: name });
      }
    }
    draw();
  }

  function draw() {
    const empty = view.state === "empty";
    set(root, { "data-state": view.state });
    set(head.remark, { text: view.remark ?? "" });
    set(ask, { text: view.ask, disabled: !view.able || Boolean(view.working), hidden: Boolean(view.working), class: empty || view.state === "stale" ? "wb-go" : "wb-plain" });
    set(why, { text: view.why || (empty && !view.working ? "Puts each layer back to fp32 alone, counts what returns, and lists the examples that flip." : ""), hidden: Boolean(view.working) });
    set(running, { hidden: !view.working });
    set(meter, { style: { width: `${100 * view.progress}%` } });
    set(gauge, { "aria-valuenow": Math.round(100 * view.progress) });
    set(said, { text: view.working });
    pieces(answer, view.answer);
    set(answer, { hidden: !view.answer.length });
    if (mark.dataset.origin !== (view.badge?.origin ?? "")) {
      mark.dataset.origin = view.badge?.origin ?? "";
      mark.replaceChildren(...(view.badge ? [badge(view.badge)] : []));
    }
    const keep = view.keep;
    keyed(keeps, (keep?.offers ?? []).map((offer) => ({ ...offer, layer: keep.layer })), (offer) => offer.text,
      (offer) => el("button", { type: "button", text: offer.text, onclick: () => send({ do: "keep", layer: offer.layer, bits: offer.bits }) }), () => {});
    view.heads.forEach((text, i) => set(heads.children[i], { text }));
    const shown = all ? view.rows : view.rows.slice(0, MANY);
    for (const node of [heads, list, legend]) set(node, { hidden: !view.rows.length });
    keyed(list, shown, (row) => row.name, make, (node, row) => node.update(row));
    set(more, { hidden: view.rows.length <= MANY, text: all ? `Show the first ${MANY}` : `Show all ${view.rows.length} layers`, "aria-expanded": String(all) });
    set(notes, { text: view.notes.join(" "), hidden: !view.notes.length });
    flips.draw(view.flips, Boolean(view.working));
  }

  return {
    draw(next) {
      if (model !== next.model) { open.clear(); waiting.clear(); all = false; model = next.model; }
      view = next;
      // of another recipe the pictures are others: those that are open are asked for anew
      const mine = new Set(view.rows.map((row) => row.name));
      for (const name of [...open]) {
        if (!mine.has(name)) open.delete(name);
        else if (!view.histograms[name] && waiting.get(name) !== view.of) { waiting.set(name, view.of); send({ do: "histogram", layer: name }); }
        else if (view.histograms[name]) waiting.delete(name);
      }
      draw();
    },
  };
});

/** Examples that flip: two tabs, a filter by layer, one page at a time. */
function flipList(send) {
  let view = null;
  const title = el("h3", { text: "Examples that flip" });
  const tabs = el("span", { class: "wb-toggle", role: "group", "aria-label": "Which flips" });
  const filter = el("select", { "aria-label": "Undone by", onchange: () => turn({ layer: filter.value, at: 0 }) });
  const said = el("p", { class: "wb-why num" });
  const list = el("ul", { class: "wb-flips", "aria-label": "Examples" });
  const back = el("button", { type: "button", text: "←", "aria-label": "Earlier examples", onclick: () => turn({ at: Math.max(0, view.at - view.size) }) });
  const on = el("button", { type: "button", text: "→", "aria-label": "Further examples", onclick: () => turn({ at: view.at + view.size }) });
  const where = el("span", { class: "num", "aria-live": "polite" });
  const note = el("span");
  const foot = el("div", { class: "wb-foot" }, note, el("span", { class: "wb-flip-pager" }, back, where, on));
  const node = el("section", { class: "wb-flipping", "aria-label": "Examples that flip" }, el("div", { class: "wb-flip-head" }, title, tabs, el("label", { class: "wb-flip-filter" }, el("span", { text: "undone by" }), filter)), said, list,
    foot);
  const turn = (change) => send({ do: "page", kind: view.kind, layer: view.layer, at: view.at, ...change });
  let offered = "";

  function make(row) {
    const picture = row.picture ? el("img", { src: row.picture, alt: `Example ${row.index}`, width: 48, height: 48 }) : el("span", { class: "wb-flip-text num", text: row.text || `example ${row.index}` });
    const target = el("small");
    const answer = () => {
      const text = el("b");
      const sure = el("small", { class: "num" });
      const node = el("span", { class: "wb-flip-answer" }, text, " ", sure);
      return Object.assign(node, { update: ({ text: t, sure: s }, right, counted) => {
        set(text, { text: t, class: counted ? (right ? "wb-gain" : "wb-loss") : null });
        set(sure, { text: s });
      } });
    };
    const was = answer();
    const now = answer();
    const undone = el("b");
    const also = el("span");
    const by = el("small", {}, "undone by ", undone, also);
    const node = el("li", {}, picture, el("div", {}, target, el("div", {}, was, el("span", { class: "wb-flip-became", role: "img", "aria-label": "became", text: "→" }), now), by));
    node.update = (row) => {
      set(node, { "data-index": row.index });
      set(target, { text: `${row.target ? `right: ${row.target} · ` : ""}no. ${row.index}` });
      was.update(row.fp32, row.right.fp32, view.counted);
      now.update(row.now, row.right.now, view.counted);
      set(undone, { text: row.undone });
      set(also, { text: row.more ? `, ${row.more}` : "" });
    };
    return node;
  }

  return {
    node,
    draw(next, coming) {
      view = next;
      set(node, { hidden: !view && !coming });
      for (const each of [tabs, filter.parentNode, list, foot]) set(each, { hidden: !view });
      if (!view) set(said, { text: "They follow when the layers are known." });
      if (!view) return;
      keyed(tabs, view.tabs, (tab) => tab.kind, (tab) => el("button", { type: "button", onclick: () => turn({ kind: tab.kind, layer: "", at: 0 }) }),
        (button, tab) => set(button, { text: tab.text, "aria-pressed": String(tab.kind === view.kind) }));
      set(title, { text: view.title });
      const options = JSON.stringify(view.filters);
      if (options !== offered) {
        offered = options;
        filter.replaceChildren(...view.filters.map((each) => el("option", { value: each.value, text: each.text })));
      }
      filter.value = view.layer;
      set(said, { text: view.sentence });
      keyed(list, view.rows, (row) => `${row.kind} ${row.index}`, make, (node, row) => node.update(row));
      set(where, { text: view.where });
      set(note, { text: view.note });
      set(back, { disabled: view.at === 0 });
      set(on, { disabled: view.at + view.size >= view.total });
    },
  };
}
