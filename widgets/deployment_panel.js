export default part("wb-card wb-deployment", (root, send) => {
  const update = (field) => (value) => send({ do: "update", [field]: value });
  const head = heading("Device");
  const controls = {
    runtime: chooser("Runtime", update("runtime")),
    device: chooser("Device", update("device")),
    threads: stepper("Threads", update("threads")),
    batch: stepper("Batch", update("batch")),
  };
  const reasons = el("div", { class: "wb-reasons" });
  root.append(head.node, ...Object.values(controls).map((control) => control.node), reasons);
  return {
    draw(view) {
      set(head.remark, { text: view.remark });
      for (const [field, control] of Object.entries(controls)) control.update(view[field]);
      keyed(reasons, view.reasons, (text) => text, () => el("p", { class: "wb-why" }), (node, text) => set(node, { text }));
    },
  };
});
