const EDGE = { left: 46, right: 12, top: 10, bottom: 40 };

export default part("wb-card wb-foresight", (root) => {
  let view = null;
  let width = 0;
  const head = heading("Predicted and measured");
  const picture = svg("svg", { role: "group" });
  const [grid, ticks, diagonal, bars, points, titles] = Array.from({ length: 6 }, () => svg("g"));
  picture.append(grid, ticks, diagonal, bars, points, titles);
  const text = el("p", { class: "wb-why num" });
  root.append(head.node, picture, text);

  function draw() {
    if (!view) return;
    root.hidden = !view.points.length; // no empty box
    if (!view.points.length || !width) return;
    const height = Math.round(Math.min(230, Math.max(180, width * 0.45)));
    const x = (at) => EDGE.left + at * (width - EDGE.left - EDGE.right);
    const y = (at) => height - EDGE.bottom - at * (height - EDGE.top - EDGE.bottom);
    set(head.remark, { text: view.held });
    set(text, { text: view.text });
    set(picture, { width, height, viewBox: `0 0 ${width} ${height}`, "aria-label": `Predicted against measured loss. ${view.text} ${view.held}.` });
    keyed(grid, view.ticks, (tick) => tick.text, () => svg("g", {}, svg("line", { class: "wb-grid" }), svg("text", { "text-anchor": "end" })), (node, tick) => {
      set(node.firstChild, { x1: EDGE.left, x2: width - EDGE.right, y1: y(tick.at), y2: y(tick.at) });
      set(node.lastChild, { x: EDGE.left - 8, y: y(tick.at) + 4, text: tick.text });
    });
    keyed(ticks, view.ticks, (tick) => tick.text, () => svg("text", { "text-anchor": "middle" }), (node, tick) => set(node, { x: x(tick.at), y: height - EDGE.bottom + 16, text: tick.text }));
    keyed(diagonal, ["line"], String, () => svg("path", { class: "wb-diagonal" }), (node) => set(node, { d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` }));
    keyed(bars, view.points, (p) => p.key, () => svg("path", { class: "wb-error wb-guess" }), (node, p) =>
      set(node, { d: `M${x(p.left)} ${y(p.y)}H${x(p.right)}M${x(p.x)} ${y(p.low)}V${y(p.high)}` }));
    keyed(points, view.points, (p) => p.key, () => svg("g", { role: "img" }, svg("title"), svg("circle", { r: 4 })), (node, p) => {
      set(node, { transform: `translate(${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)})`, "aria-label": p.spoken, class: p.held ? "wb-held" : "wb-missed" });
      set(node.firstChild, { text: p.spoken });
    });
    keyed(titles, [{ at: "start", x: EDGE.left, text: `predicted loss, ${view.unit} →` }, { at: "end", x: width - EDGE.right, text: "↑ measured loss" }],
      (title) => title.at, (title) => svg("text", { "text-anchor": title.at }), (node, title) => set(node, { x: title.x, y: height - 4, text: title.text }));
  }

  const end = sized(root.parentElement ?? root, () => {
    const style = getComputedStyle(root);
    width = Math.floor(root.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    draw();
  });
  return { draw: (next) => {
    view = next;
    root.hidden = !view.points.length;
    if (!root.hidden) width = Math.floor(root.clientWidth - 32) || width;
    draw();
  }, end };
});
