export default part("wb-card wb-deployment", (root, send) => {
  const update = (field) => (value) => send({ do: "update", [field]: value });
  const head = heading("Device");
  const controls = {
    runtime: chooser("Runtime", update("runtime")),
    device: chooser("Device", update("device")),
    threads: stepper("Threads", update("threads")),
    batch: stepper("Batch", update("batch")),
    precision: chooser("Floating point", update("precision")),
  };
  const line = el("p", { class: "wb-line" });
  const warning = el("p", { class: "wb-line wb-warned", role: "status" });
  const notes = el("div", { class: "wb-reasons" });
  const reasons = el("div", { class: "wb-reasons" });
  const { runtime, device, threads, batch, precision } = controls;
  root.append(head.node, runtime.node, line, device.node, threads.node, warning, batch.node, precision.node, notes, reasons);
  const list = (parent, texts) => keyed(parent, texts, (text) => text, () => el("p", { class: "wb-why" }), (node, text) => set(node, { text }));
  return {
    draw(view) {
      set(head.remark, { text: view.remark });
      for (const [field, control] of Object.entries(controls)) control.update(view[field]);
      set(line, { text: view.line, hidden: !view.line });
      set(warning, { text: view.warning, hidden: !view.warning });
      list(notes, view.notes);
      list(reasons, view.reasons);
    },
  };
});
