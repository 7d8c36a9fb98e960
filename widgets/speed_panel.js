export default part("wb-card wb-speed", (root, send) => {
  const head = heading("Where the time goes");
  set(head.remark, { text: "measured on this machine" });
  const grid = el("div", { class: "wb-speed-grid" });
  root.append(head.node, grid);
  const bodies = { waterfall: waterfallPlot, sweep: () => sweepMap(send), layers: timeTable, timing: factRows, agreement: factRows };

  function make({ kind }) {
    const title = el("h3", { id: `wb-${++serial}-${kind}` });
    const about = el("p", { class: "wb-why" });
    const ask = el("button", { type: "button", onclick: () => send({ do: "look", kind }) });
    const meter = el("i");
    const gauge = el("span", { class: "wb-eff-meter", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, meter);
    const said = el("span", { class: "wb-why num", "aria-live": "polite" });
    const stop = el("button", { type: "button", class: "wb-plain", text: "Cancel", onclick: () => send({ do: "stop", kind }) });
    const running = el("p", { class: "wb-speed-running" }, gauge, said);
    const reason = el("p", { class: "wb-note", role: "alert" });
    const doubt = el("summary");
    const warnings = el("ul");
    const doubts = el("details", { class: "wb-doubts" }, doubt, warnings);
    const notes = el("p", { class: "wb-why" });
    const place = el("div", { class: "wb-speed-body" });
    let body = null;
    const node = el("section", { "aria-labelledby": title.id, "data-look": kind }, el("div", { class: "wb-speed-head" }, el("div", { class: "wb-speed-title" }, title, about, running), ask, stop), reason, place, doubts, notes);
    node.update = (view) => {
      set(node, { "data-state": view.state });
      set(title, { text: view.title });
      set(about, { text: view.remark || view.about, hidden: Boolean(view.working) });
      set(stop, { hidden: !view.working });
      set(ask, { text: view.ask, hidden: Boolean(view.working), "aria-label": `${view.ask}: ${view.title}`, class: view.go ? null : "wb-plain" });
      set(running, { hidden: !view.working });
      set(gauge, { "aria-label": `Progress: ${view.title}`, "aria-valuenow": Math.round(100 * view.share) });
      set(meter, { style: { width: `${100 * view.share}%` } });
      set(said, { text: view.working });
      set(stop, { "aria-label": `Cancel: ${view.title}` });
      set(reason, { text: view.reason, hidden: !view.reason });
      set(doubt, { text: view.warnings[0] ?? "" });
      doubts.style.visibility = view.warnings.length ? "" : "hidden"; // they come last, and move nothing
      set(doubts, { hidden: !view.body });
      keyed(warnings, view.warnings, String, () => el("li"), (each, text) => set(each, { text }));
      set(notes, { text: view.notes.join(" "), hidden: !view.notes.length });
      set(place, { hidden: !view.body });
      if (!view.body) return;
      if (!body) place.append((body = bodies[kind]()).node); // made when there is something to show
      body.draw(view.body);
    };
    return node;
  }

  return { draw: (view) => keyed(grid, view.sections, (section) => section.kind, make, (node, section) => node.update(section)) };
});
