export default part("wb-card wb-speed", (root, send) => {
  const head = heading("Where the time goes");
  set(head.remark, { text: "measured on this machine" });
  // two columns of their own: a long waterfall must not leave a hole beside it
  const columns = [["waterfall", "timing"], ["sweep", "layers", "agreement"]].map((kinds) => ({ kinds, node: el("div") }));
  root.append(head.node, el("div", { class: "wb-speed-grid" }, ...columns.map((column) => column.node)));
  const make = lookSection({ waterfall: waterfallPlot, sweep: () => sweepMap(send), layers: timeTable, timing: factRows, agreement: factRows }, send);

  return { draw: (view) => {
    for (const { kinds, node } of columns)
      keyed(node, view.sections.filter((section) => kinds.includes(section.kind)), (section) => section.kind, make, (each, section) => each.update(section));
  } };
});
