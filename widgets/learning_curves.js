const LEFT = 34;
const RIGHT = 104; // room for the names at the ends of the lines
const TOP = 10;
const BOTTOM = 24;
const HEIGHT = 190;
const STRIP = 40; // under the accuracy, for a loss

export default part("wb-card wb-curves", (root) => {
  const head = heading("Learning");
  const picture = svg("svg", { role: "img", height: HEIGHT });
  const grid = svg("g");
  const bands = svg("g");
  const lines = svg("g");
  const names = svg("g");
  const loss = svg("g", { class: "wb-loss-strip" }, svg("line", { class: "wb-grid" }), svg("path"), svg("text"));
  const foot = svg("g");
  picture.append(grid, bands, lines, names, loss, foot);
  const quiet = el("p", { class: "wb-quiet" });
  const below = el("p", { class: "wb-why num" });
  root.append(head.node, picture, quiet, below);
  let view = null;
  let width = 0;

  function draw() {
    if (!view) return;
    pieces(head.remark, view.remark);
    set(quiet, { text: view.quiet, hidden: !view.quiet });
    root.style.alignSelf = view.quiet ? "start" : ""; // a sentence needs no tall card
    set(below, { text: view.foot, hidden: Boolean(view.quiet) });
    picture.style.display = view.quiet ? "none" : "";
    if (view.quiet || !width) return;
    const x = (at) => LEFT + at * (width - LEFT - RIGHT);
    const y = (at) => HEIGHT - BOTTOM - at * (HEIGHT - TOP - BOTTOM);
    const whole = HEIGHT + (view.loss ? STRIP : 0);
    set(picture, { width, height: whole, viewBox: `0 0 ${width} ${whole}`, "aria-label": view.label });
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
    loss.style.display = view.loss ? "" : "none";
    if (view.loss) {
      const at = (value) => whole - BOTTOM - value * (STRIP - 8);
      const [floor, line, name] = loss.children;
      set(floor, { x1: LEFT, x2: width - RIGHT, y1: at(0), y2: at(0) });
      set(line, { d: view.loss.points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${at(p[1]).toFixed(1)}`).join("") });
      const last = view.loss.points.at(-1);
      set(name, { x: x(last[0]) + 7, y: at(last[1]) + 4, text: view.loss.text });
    }
    keyed(foot, [{ x: LEFT, anchor: "start", text: "0" }, { x: width - RIGHT, anchor: "end", text: view.end }], (end) => end.anchor, () => svg("text"),
      (node, end) => set(node, { x: end.x, y: whole - 4, "text-anchor": end.anchor, text: end.text }));
  }

  const end = sized(root, () => {
    const style = getComputedStyle(root);
    width = Math.floor(root.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    draw();
  });
  return { draw: (next) => { view = next; draw(); }, end };
});
