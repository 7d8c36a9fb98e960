export default part("wb-card wb-quantization", (root, send) => {
  const update = (field) => (value) => send({ do: "update", [field]: value });
  const head = heading("Quantization");
  const controls = {
    weight_bits: stepper("Weight bits", update("weight_bits")),
    activation_bits: stepper("Activation bits", update("activation_bits")),
    method: chooser("Method", update("method")),
    scheme: chooser("Scheme", update("scheme")),
    granularity: chooser("Granularity", update("granularity")),
    range: chooser("Range", update("range")),
  };
  const why = el("p", { class: "wb-why" });
  root.append(head.node, ...Object.values(controls).map((control) => control.node), why);
  return {
    draw(view) {
      set(head.remark, { text: view.remark });
      for (const [field, control] of Object.entries(controls)) control.update(view[field]);
      set(why, { text: view.why, hidden: !view.why });
    },
  };
});
