export default part("wb-card wb-speed", (root, send) => {
  const head = heading("Where the time goes");
  set(head.remark, { text: "measured on this machine" });
  const grid = el("div", { class: "wb-speed-grid" });
  root.append(head.node, grid);
  const make = lookSection({ waterfall: waterfallPlot, sweep: () => sweepMap(send), layers: timeTable, timing: factRows, agreement: factRows }, send);

  return { draw: (view) => keyed(grid, view.sections, (section) => section.kind, make, (node, section) => node.update(section)) };
});
