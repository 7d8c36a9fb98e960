export default part("wb-card wb-finetuning", (root, send) => {
  const update = (field) => (value) => send({ do: "update", [field]: value });
  const head = heading("Fine-tuning");
  const usual = {
    images: stepper("Images", update("images")),
    epochs: chooser("Epochs", update("epochs")),
  };
  const finer = {
    learning_rate: chooser("Learning rate", update("learning_rate")),
    distillation: stepper("fp32’s share", update("distillation")),
    nested: nesting(send),
    seed: seeding(update("seed")),
  };
  const changed = el("small");
  const nodes = (controls) => Object.values(controls).map((control) => control.node);
  const more = el("details", { class: "wb-more" }, el("summary", {}, "More", changed), ...nodes(finer));
  let training = false;
  const start = el("button", { type: "button", class: "wb-go", onclick: () => send({ do: training ? "stop" : "start" }) });
  const remove = el("button", { type: "button", text: "Without fine-tuning", onclick: () => send({ do: "remove" }) });
  const note = el("p", { class: "wb-line num" });
  const reasons = el("div", { class: "wb-reasons" });
  root.append(head.node, ...nodes(usual), more, el("div", { class: "wb-actions" }, start, remove), note, reasons);
  return {
    draw(view) {
      training = view.training;
      set(head.remark, { text: view.remark });
      for (const [field, control] of Object.entries({ ...usual, ...finer })) control.update(view[field]);
      set(changed, { text: view.more, hidden: !view.more });
      set(start, { text: training ? "Stop" : "Fine-tune", disabled: !training && !view.can_start });
      set(remove, { hidden: !view.can_remove });
      set(note, { text: view.note, hidden: !view.note });
      keyed(reasons, view.reasons, (text) => text, () => el("p", { class: "wb-why" }), (node, text) => set(node, { text }));
    },
  };
});

/** Bit-widths that one network is to be good at, each a button that is pressed or not. */
function nesting(send) {
  const name = `wb-nested-${Math.random().toString(36).slice(2)}`;
  const keys = el("span", { class: "wb-segments", role: "group", "aria-labelledby": name });
  const label = el("span", { id: name, class: "wb-label", text: "Also good at", title: "Bit-widths of weights that the one network is trained for, each with steps of its own" });
  return {
    node: el("div", { class: "wb-row" }, label, keys),
    update(items) {
      keyed(keys, items, (item) => item.bits,
        (item) => el("button", { type: "button", text: item.bits, "aria-label": `${item.bits} bits`, onclick: () => send({ do: "nest", bits: item.bits }) }),
        (node, item) => set(node, { "aria-pressed": String(item.chosen), disabled: item.disabled }));
    },
  };
}

/** A whole number in a field; what Python does not take goes back to what it was. */
function seeding(send) {
  const id = `wb-seed-${Math.random().toString(36).slice(2)}`;
  const input = el("input", { type: "text", inputmode: "numeric", id, autocomplete: "off" });
  const hold = held((value) => {
    input.value = value;
  });
  set(input, {
    onfocus: () => hold.hold(true),
    onchange: () => {
      const text = input.value.trim();
      const value = /^\d+$/.test(text) ? Number(text) : text;
      hold.mine(value);
      send(value);
    },
    onblur: () => hold.hold(false),
  });
  return {
    node: el("div", { class: "wb-row" }, el("label", { for: id, text: "Seed" }), input),
    update(view) {
      set(input, { disabled: view.disabled });
      hold.theirs(view.value);
    },
  };
}
