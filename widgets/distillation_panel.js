export default part("wb-card wb-distillation", (root, send) => {
  const update = (field) => (value) => send({ do: "update", [field]: value });
  const head = heading("Distillation");
  const controls = {
    width: chooser("Student", update("width")),
    teacher: chooser("Teacher", update("teacher")),
    loss: explained("Loss", update("loss")),
    features: explained("Hidden layers", update("features")),
    temperature: stepper("Temperature", update("temperature")),
    weight: stepper("Teacher’s share", update("weight")),
    labels: stepper("Labels used", update("labels")),
    epochs: chooser("Epochs", update("epochs")),
  };
  let training = false;
  const start = el("button", { type: "button", class: "wb-go", onclick: () => send({ do: training ? "stop" : "distil" }) });
  const remove = el("button", { type: "button", text: "Remove student", onclick: () => send({ do: "remove" }) });
  const note = el("span", { class: "wb-why" });
  const reasons = el("div", { class: "wb-reasons" });
  root.append(head.node, ...Object.values(controls).map((control) => control.node), el("div", { class: "wb-actions" }, start, remove, note), reasons);
  return {
    draw(view) {
      training = view.training;
      set(head.remark, { text: view.remark });
      for (const [field, control] of Object.entries(controls)) control.update(view[field]);
      set(start, { text: training ? "Stop" : "Distil", disabled: !training && !view.can_start });
      set(remove, { hidden: !view.can_remove });
      set(note, { text: view.note, hidden: view.can_remove || !view.note });
      keyed(reasons, view.reasons, (text) => text, () => el("p", { class: "wb-why" }), (node, text) => set(node, { text }));
    },
  };
});
