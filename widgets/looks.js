/** Makes the section of a look: heading, button, progress, and what was found, drawn by `bodies[kind]`. */
function lookSection(bodies, send) {
  return ({ kind }) => {
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
      set(about, { text: view.why || view.remark || view.about, hidden: Boolean(view.working) });
      set(stop, { hidden: !view.working });
      set(ask, { text: view.ask, hidden: Boolean(view.working), disabled: Boolean(view.why), "aria-label": `${view.ask}: ${view.title}`, class: view.go ? null : "wb-plain" });
      set(running, { hidden: !view.working });
      set(gauge, { "aria-label": `Progress: ${view.title}`, "aria-valuenow": Math.round(100 * view.share) });
      set(meter, { style: { width: `${100 * view.share}%` } });
      set(said, { text: view.working });
      set(stop, { "aria-label": `Cancel: ${view.title}` });
      set(reason, { text: view.reason, hidden: !view.reason });
      set(doubt, { text: view.warnings[0] ?? "" });
      doubts.style.visibility = view.warnings.length ? "" : "hidden"; // they come last, and move nothing
      set(doubts, { hidden: !view.body || !view.timed });
      keyed(warnings, view.warnings, String, () => el("li"), (each, text) => set(each, { text }));
      set(notes, { text: view.notes.join(" "), hidden: !view.notes.length });
      set(place, { hidden: !view.body });
      if (!view.body) return;
      if (!body) place.append((body = bodies[kind]()).node); // made when there is something to show
      body.draw(view.body);
    };
    return node;
  };
}
