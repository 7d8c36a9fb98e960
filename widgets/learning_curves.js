const LEFT = 34;
const RIGHT = 104; // room for the names at the ends of the lines
const TOP = 10;
const BOTTOM = 24;
const HEIGHT = 190;

export default part("wb-card wb-curves", (root) => {
  const head = heading("Learning");
  const picture = svg("svg", { role: "img", height: HEIGHT });
  const grid = svg("g");
  const bands = svg("g");
  const lines = svg("g");
  const names = svg("g");
  const foot = svg("g");
  picture.append(grid, bands, lines, names, foot);
  const quiet = el("p", { class: "wb-quiet" });
  const below = el("p", { class: "wb-why num" });
  root.append(head.node, picture, quiet, below);
  let view = null;
  let width = 0;

  function draw() {
    if (!view) return;
    pieces(head.remark, view.remark);
    set(quiet, { text: view.quiet, hidden: !view.quiet });
    set(below, { text: view.foot, hidden: Boolean(view.quiet) });
    picture.style.display = view.quiet ? "none" : "";
    if (view.quiet || !width) return;
    const x = (at) => LEFT + at * (width - LEFT - RIGHT);
    const y = (at) => HEIGHT - BOTTOM - at * (HEIGHT - TOP - BOTTOM);
    set(picture, { width, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-label": view.label });
    keyed(grid, view.ticks, (tick) => tick.text, () => svg("g", {}, svg("line"), svg("text", { "text-anchor": "end" })), (node, tick) => {
      set(node.firstChild, { x1: LEFT, x2: width - RIGHT, y1: y(tick.at), y2: y(tick.at), class: "wb-grid" });
      set(node.lastChild, { x: LEFT - 8, y: y(tick.at) + 4, text: tick.text });
    });
    const path = (points, value) => points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(value(p)).toFixed(1)}`).join("");
    keyed(bands, view.lines, (line) => line.name, () => svg("path"), (node, line) =>
      set(node, { class: `wb-band-${line.name}`, d: `${path(line.points, (p) => p[3])}${path([...line.points].reverse(), (p) => p[2]).replace("M", "L")}Z` }));
    keyed(lines, view.lines, (line) => line.name, () => svg("path"), (node, line) =>
      set(node, { class: `wb-line-${line.name}`, d: path(line.points, (p) => p[1]) }));
    // the names stand at the ends of their lines, but never on each other
    const ends = view.lines.map((line) => ({ ...line, x: x(line.points.at(-1)[0]) + 7, y: y(line.points.at(-1)[1]) + 4 })).sort((a, b) => a.y - b.y);
    if (ends.length === 2 && ends[1].y - ends[0].y < 15) {
      const middle = Math.min(HEIGHT - BOTTOM - 8, Math.max(TOP + 12, (ends[0].y + ends[1].y) / 2));
      ends[0].y = middle - 7.5;
      ends[1].y = middle + 7.5;
    }
    keyed(names, ends, (line) => line.name, () => svg("text"), (node, line) => set(node, { class: `wb-end-${line.name}`, x: line.x, y: line.y, text: line.text }));
    keyed(foot, [{ x: LEFT, anchor: "start", text: "0" }, { x: width - RIGHT, anchor: "end", text: view.end }], (end) => end.anchor, () => svg("text"),
      (node, end) => set(node, { x: end.x, y: HEIGHT - 4, "text-anchor": end.anchor, text: end.text }));
  }

  const end = sized(root, () => {
    const style = getComputedStyle(root);
    width = Math.floor(root.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    draw();
  });
  return { draw: (next) => { view = next; draw(); }, end };
});
