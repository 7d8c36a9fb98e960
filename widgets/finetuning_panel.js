export default part("wb-card wb-finetuning", (root, send) => {
  const update = (field) => (value) => send({ do: "update", [field]: value });
  const head = heading("Fine-tuning");
  const usual = {
    images: stepper("Images", update("images")),
    epochs: chooser("Epochs", update("epochs")),
  };
  const finer = {
    learning_rate: chooser("Learning rate", update("learning_rate")),
    teacher: chooser("Teacher", update("teacher")),
    distillation: stepper("Its share", update("distillation")),
    nested: keys("Also good at", "Bit-widths of weights that the one network is trained for, each with steps of its own", (bits) => send({ do: "nest", bits })),
    seed: seeding(update("seed")),
  };
  const changed = el("small");
  const nodes = (controls) => Object.values(controls).map((control) => control.node);
  const more = el("details", { class: "wb-more" }, el("summary", {}, "More", changed), ...nodes(finer));
  let training = false;
  let paused = false;
  const start = el("button", { type: "button", class: "wb-go", onclick: () => send({ do: training ? "stop" : "start" }) });
  const hold = el("button", { type: "button", onclick: () => send({ do: paused ? "resume" : "pause" }) });
  const remove = el("button", { type: "button", text: "Without fine-tuning", onclick: () => send({ do: "remove" }) });
  const note = el("p", { class: "wb-line num" });
  const reasons = el("div", { class: "wb-reasons" });
  root.append(head.node, ...nodes(usual), more, el("div", { class: "wb-actions" }, start, hold, remove), note, reasons);
  return {
    draw(view) {
      ({ training, paused } = view);
      set(head.remark, { text: view.remark });
      for (const [field, control] of Object.entries({ ...usual, ...finer })) control.update(view[field]);
      set(changed, { text: view.more, hidden: !view.more });
      set(start, { text: training ? "Stop" : "Fine-tune", disabled: !training && !view.can_start });
      set(hold, { text: paused ? "Resume" : "Pause", hidden: !training });
      set(remove, { hidden: !view.can_remove });
      set(note, { text: view.note, hidden: !view.note });
      keyed(reasons, view.reasons, (text) => text, () => el("p", { class: "wb-why" }), (node, text) => set(node, { text }));
    },
  };
});
