/** What is said to one example: a bar for each class and speaker, at the temperature of the slider at once. */
function softenedBars(send) {
  let view = null;
  let shown = null;
  const follow = held((value) => {
    shown = value;
    bars();
  });
  const picture = el("img", { width: 84, height: 84, alt: "" });
  const text = el("p", { class: "wb-flip-text num" });
  const right = el("b");
  const which = el("span", { class: "num", "aria-live": "polite" });
  const turn = (step) => () => send({ do: "hear", index: (view.index + step + view.total) % view.total });
  const back = el("button", { type: "button", text: "←", "aria-label": "Earlier example", onclick: turn(-1) });
  const on = el("button", { type: "button", text: "→", "aria-label": "Next example", onclick: turn(1) });
  const temperature = stepper("Temperature", (value) => send({ do: "temperature", temperature: value }));
  temperature.node.addEventListener("input", (event) => {
    shown = view.temperature.values[Number(event.target.value)];
    follow.mine(shown);
    bars(); // before Python knows of it
  });
  const key = el("p", { class: "wb-eff-legend", "aria-hidden": "true" });
  const list = el("ul", { class: "wb-soft-bars num", "aria-label": "Probabilities of the classes" });
  const reason = el("p", { class: "wb-note", role: "alert" });
  const node = el("div", { class: "wb-soft" },
    el("div", { class: "wb-soft-example" }, picture, text, el("div", { class: "wb-soft-which" }, which, right, el("span", { class: "wb-soft-pager" }, back, on))),
    temperature.node, list, key, reason);

  function bars() {
    const now = view.at[String(shown)];
    set(list, { hidden: !now });
    if (!now) return;
    const rows = view.classes.map((each, k) => ({ ...each, said: view.speakers.map((name) => ({ name, ...now[name][k] })) }));
    keyed(list, rows, (row) => row.name, () => el("li", {}, el("span", { class: "wb-soft-name" }), el("span", { class: "wb-soft-track", "aria-hidden": "true" }), el("span", { class: "wb-soft-number" }), el("span", { class: "wb-soft-number wb-soft-student" })), (each, row) => {
      const [name, track, number, other] = each.children;
      const student = row.said.find((said) => said.name === "student");
      set(each, { "data-right": String(row.right) });
      set(name, { text: row.name, title: row.right ? `${row.name}: the right answer` : row.name });
      keyed(track, row.said, (bar) => bar.name, (bar) => el("i", { "data-speaker": bar.name }), (bar, said) => set(bar, { style: { width: `${100 * said.share}%` } }));
      set(number, { text: row.said[0].text });
      set(other, { text: student?.text ?? "", hidden: !student });
      set(each, { title: row.said.map((said) => `${said.name} ${said.text} %`).join(", ") });
    });
  }

  return {
    node,
    draw(next) {
      view = next;
      temperature.update(view.temperature);
      set(picture, { src: view.picture || null, hidden: !view.picture, alt: `Example ${view.index}` });
      set(text, { text: view.text, hidden: !view.text });
      set(which, { text: `no. ${view.index.toLocaleString("en")} of ${view.total.toLocaleString("en")}` });
      set(right, { text: view.target ? `right: ${view.target}` : "" });
      for (const button of [back, on]) set(button, { disabled: view.total < 2 });
      set(reason, { text: view.reason, hidden: !view.reason });
      const said = view.speakers.length ? [...view.speakers.map((name) => ({ name })), { name: "probability, %" }] : [];
      keyed(key, said, (each) => each.name, ({ name }) => el("span", {}, ...(view.speakers.includes(name) ? [el("i", { "data-speaker": name })] : []), name), () => {});
      follow.theirs(view.temperature.value);
      bars();
    },
  };
}

/** Examples on which the two differ, a few at a time; one that is picked is shown above. */
function differingExamples(send) {
  let view = null;
  const title = el("h3", { text: "Where they differ" });
  const all = el("button", { type: "button", class: "wb-plain", onclick: () => send({ do: "pair" }) });
  const list = el("ul", { class: "wb-differ", "aria-label": "Examples on which student and teacher differ" });
  const back = el("button", { type: "button", text: "←", "aria-label": "Earlier differing examples", onclick: () => send({ do: "turn", at: Math.max(0, view.at - view.size) }) });
  const on = el("button", { type: "button", text: "→", "aria-label": "Further differing examples", onclick: () => send({ do: "turn", at: view.at + view.size }) });
  const where = el("span", { class: "num", "aria-live": "polite" });
  const node = el("div", { class: "wb-differing" }, el("div", { class: "wb-flip-head" }, title, all, el("span", { class: "wb-flip-pager" }, back, where, on)), list);
  const make = (row) => el("li", {}, el("button", { type: "button", onclick: () => send({ do: "hear", index: row.index }) }, row.picture ? el("img", { src: row.picture, alt: "", width: 40, height: 40 }) : el("span", { class: "wb-flip-text", text: row.text }), el("small", { text: row.name })));
  return {
    node,
    draw(next) {
      view = next;
      set(node, { hidden: !view });
      if (!view) return;
      set(all, { hidden: !view.pair, text: `${view.pair} ✕`, "aria-label": `All, not only ${view.pair}` });
      set(where, { text: view.where });
      set(back, { disabled: view.at === 0 });
      set(on, { disabled: view.at + view.size >= view.total });
      keyed(list, view.rows, (row) => row.spoken, make, (each, row) => set(each.firstChild, { "aria-label": row.spoken, title: row.spoken, "aria-pressed": String(row.now) }));
    },
  };
}

export default part("wb-card wb-teaching", (root, send) => {
  const head = heading("Teacher and student");
  const bars = softenedBars(send);
  const differing = differingExamples(send);
  const said = el("section", { "aria-label": "What they say to an example" }, el("h3", { text: "What the teacher says to an example" }), bars.node, differing.node);
  const quiet = el("p", { class: "wb-quiet", text: "Nobody can teach here: the task has no training examples." });
  const looks = el("div");
  root.append(head.node, el("div", { class: "wb-teach-grid" }, said, looks), quiet);
  const make = lookSection({ confusion: () => agreementMatrix(send), interaction: interactionPlot }, send);
  return {
    draw(view) {
      set(said, { hidden: !view.possible });
      set(quiet, { hidden: view.possible });
      bars.draw(view.spoken);
      differing.draw(view.differing);
      keyed(looks, view.sections, (section) => section.kind, make, (node, section) => node.update(section));
    },
  };
});
