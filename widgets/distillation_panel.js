export default part("wb-card wb-distillation", (root, send) => {
  const update = (field) => (value) => send({ do: "update", [field]: value });
  const head = heading("Distillation");
  let share = "width";
  const usual = {
    teacher: chooser("Teacher", update("teacher")),
    student: explained("Student", update("student")),
    share: chooser("Width", (value) => send({ do: "update", [share]: value })),
    initial: chooser("First weights", update("initial")),
    loss: explained("Loss", update("loss")),
    features: explained("Hidden layers", update("features")),
    pairs: layerPairs(send),
    features_weight: stepper("Their weight", update("features_weight")),
    temperature: stepper("Temperature", update("temperature")),
    weight: stepper("Teacher’s share", update("weight")),
    labels: stepper("Labelled", update("labels")),
    unlabelled: stepper("Unlabelled", update("unlabelled")),
    epochs: chooser("Epochs", update("epochs")),
    seeds: chooser("Repeated", update("seeds")),
  };
  const finer = {
    widths: layerWidths(send),
    others: keys("Also teach", "The student learns from the mean of all its teachers", (name) => send({ do: "teach", name })),
    augmentation: explained("Augmentation", update("augmentation")),
    views: chooser("Of each image", update("views")),
    patience: chooser("Early stop", update("patience")),
    soup: chooser("Model soup", update("soup")),
    seed: seeding(update("seed")),
  };
  const controls = { ...usual, ...finer };
  const refused = el("p", { class: "wb-line wb-warned", role: "alert" });
  const changed = el("small");
  const nodes = (some) => Object.values(some).map((control) => control.node);
  const more = el("details", { class: "wb-more" }, el("summary", {}, "More", changed), ...nodes(finer));
  const [what, against] = [el("b", { class: "num" }), el("span", { class: "num" })];
  const notes = el("ul", { class: "wb-warnings" });
  const when = el("p", { class: "wb-sketch-latency num" });
  const wrong = el("p", { class: "wb-warned" });
  const sketch = el("div", { class: "wb-sketch", role: "status", "aria-label": "The student before it is trained" }, what, against, when, notes, wrong);
  let training = false;
  let paused = false;
  const start = el("button", { type: "button", class: "wb-go", onclick: () => send({ do: training ? "stop" : "distil" }) });
  const hold = el("button", { type: "button", onclick: () => send({ do: paused ? "resume" : "pause" }) });
  const remove = el("button", { type: "button", text: "Remove student", onclick: () => send({ do: "remove" }) });
  const note = el("p", { class: "wb-line num" });
  const reasons = el("div", { class: "wb-reasons" });
  root.append(head.node, ...nodes(usual), more, sketch, el("div", { class: "wb-actions" }, start, hold, remove), note, reasons);
  return {
    draw(view) {
      ({ training, paused } = view);
      share = view.share.field;
      set(head.remark, { text: view.remark });
      for (const [field, control] of Object.entries(controls)) control.update(view[field]);
      set(usual.share.node, { hidden: !share });
      set(usual.share.node.firstChild, { text: view.share.label });
      set(usual.features_weight.node, { hidden: view.features_weight.hidden });
      set(finer.views.node, { hidden: view.views.hidden });
      set(finer.others.node, { hidden: !view.others.length });
      set(changed, { text: view.more, hidden: !view.more });
      // what was refused is said where it was asked for
      const place = controls[view.refused.field in { width: 0, depth: 0, rank: 0 } ? "share" : view.refused.field]?.node;
      if (!place) refused.remove();
      else if (place.nextSibling !== refused) place.after(refused);
      set(refused, { text: view.refused.text });
      set(what, { text: view.sketch.text, hidden: !view.sketch.text });
      set(against, { text: view.sketch.share, hidden: !view.sketch.share });
      set(wrong, { text: view.sketch.wrong, hidden: !view.sketch.wrong });
      keyed(when, view.sketch.latency ? [view.sketch.latency] : [], (each) => each.word, (each) => el("span", {}, badge(each), el("span")), (node, { text }) => set(node.lastChild, { text }));
      set(when, { hidden: !view.sketch.latency });
      set(sketch, { hidden: !view.sketch.text && !view.sketch.wrong });
      keyed(notes, view.sketch.notes, String, () => el("li"), (node, text) => set(node, { text }));
      set(start, { text: training ? "Stop" : "Distil", title: training ? "The best so far is kept, once there is any" : null, disabled: !training && !view.can_start });
      set(hold, { text: paused ? "Resume" : "Pause", hidden: !training });
      set(remove, { hidden: !view.can_remove });
      set(note, { text: view.note, hidden: !view.note });
      keyed(reasons, view.reasons, (text) => text, () => el("p", { class: "wb-why" }), (node, text) => set(node, { text }));
    },
  };
});
