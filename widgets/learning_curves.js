const LEFT = 34;
const RIGHT = 104; // room for the names at the ends of the lines
const TOP = 10;
const BOTTOM = 24;
const HEIGHT = 190;
const STRIP = 40; // under the accuracy, for a loss; of several, each has a line for its name
const NAME = 15;

export default part("wb-card wb-curves", (root) => {
  const head = heading("Learning");
  const picture = svg("svg", { role: "img", height: HEIGHT });
  const grid = svg("g");
  const bands = svg("g");
  const lines = svg("g");
  const names = svg("g");
  const [floor, losses, called] = [svg("line", { class: "wb-grid" }), svg("g"), svg("g")];
  const loss = svg("g", { class: "wb-loss-strip" }, floor, losses, called);
  const foot = svg("g");
  picture.append(grid, bands, lines, names, loss, foot);
  const quiet = el("p", { class: "wb-quiet" });
  const below = el("p", { class: "wb-why num" });
  const verdict = el("p", { class: "wb-said num", role: "status" });
  root.append(head.node, picture, quiet, below, verdict);
  let view = null;
  let width = 0;

  function draw() {
    if (!view) return;
    pieces(head.remark, view.remark);
    set(quiet, { text: view.quiet, hidden: !view.quiet });
    root.style.alignSelf = view.quiet ? "start" : ""; // a sentence needs no tall card
    set(below, { text: view.foot, hidden: Boolean(view.quiet) });
    set(root, { "data-paused": String(view.paused) });
    pieces(verdict, view.verdict);
    set(verdict, { hidden: !view.verdict.length });
    picture.style.display = view.quiet ? "none" : "";
    if (view.quiet || !width) return;
    const x = (at) => LEFT + at * (width - LEFT - RIGHT);
    const y = (at) => HEIGHT - BOTTOM - at * (HEIGHT - TOP - BOTTOM);
    const strip = view.losses.length ? Math.max(STRIP, NAME * view.losses.length + 8) : 0;
    const whole = HEIGHT + strip;
    set(picture, { width, height: whole, viewBox: `0 0 ${width} ${whole}`, "aria-label": view.label });
    keyed(grid, view.ticks, (tick) => tick.text, () => svg("g", {}, svg("line"), svg("text", { "text-anchor": "end" })), (node, tick) => {
      set(node.firstChild, { x1: LEFT, x2: width - RIGHT, y1: y(tick.at), y2: y(tick.at), class: "wb-grid" });
      set(node.lastChild, { x: LEFT - 8, y: y(tick.at) + 4, text: tick.text });
    });
    // one point is a short line, or it would not be seen
    const path = (points, value) => (points.length > 1 ? points : [points[0], [points[0][0] + 0.006, ...points[0].slice(1)]]).map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(value(p)).toFixed(1)}`).join("");
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
    loss.style.display = strip ? "" : "none";
    const at = (value) => whole - BOTTOM - value * (strip - 8);
    set(floor, { x1: LEFT, x2: width - RIGHT, y1: at(0), y2: at(0) });
    keyed(losses, view.losses, (line) => line.name, () => svg("path"), (node, line) =>
      set(node, { "data-part": line.name, d: line.points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${at(p[1]).toFixed(1)}`).join("") }));
    keyed(called, apart(view.losses.map((line) => ({ ...line, x: x(line.points.at(-1)[0]) + 7, y: at(line.points.at(-1)[1]) + 4 })), whole - BOTTOM + 4), (line) => line.name, () => svg("text"),
      (node, line) => set(node, { x: line.x, y: line.y, text: line.text, "data-part": line.name }));
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

/** Names at the ends of lines, none on another, the lowest not below `floor`. */
function apart(ends, floor) {
  ends.sort((a, b) => b.y - a.y);
  let limit = floor;
  for (const end of ends) {
    end.y = Math.min(end.y, limit);
    limit = end.y - NAME;
  }
  return ends;
}
