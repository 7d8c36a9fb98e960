const LEFT = 40;
const RIGHT = 14;
const TOP = 14;
const BOTTOM = 46;

/** What is the same of all points that were measured elsewhere. */
const ELSEWHERE = { origin: "imported", tried: false, elsewhere: true, now: false, proposed: false, baseline: false, growing: false, below: false, recent: -1 };

export default part("wb-card wb-tradeoff", (root, send, model) => {
  let view = null;
  let against = "size";
  let width = 0;
  const head = heading("Trade-off");
  const toggle = el("span", { class: "wb-toggle", role: "group", "aria-label": "Accuracy against" });
  head.remark.replaceWith(toggle);
  const picture = svg("svg", { role: "group" });
  const [grid, ticks, ahead, limits, frontier, errors, points, labels, titles] = Array.from({ length: 9 }, () => svg("g"));
  picture.append(grid, ticks, ahead, limits, frontier, errors, labels, points, titles);
  const quiet = el("p", { class: "wb-quiet" });
  const legend = el("p", { class: "wb-legend" });
  const told = el("span", { role: "status", "aria-live": "polite" });
  const measure = el("button", { type: "button", onclick: () => send({ do: "measure", key: view.picked.key }) });
  const picked = el("p", { class: "wb-picked" }, told, " ", measure);
  const plan = planner(send);
  root.append(head.node, picture, quiet, legend, picked, plan.node);

  function make(point) {
    const target = svg("circle", { class: "wb-target" });
    const node = svg("g", { class: "wb-point" }, svg("title"), target, svg("g"), svg("circle", { class: "wb-ring" }));
    const restore = () => {
      if (node.dataset.tried === "true") send({ do: "restore", key: point.key });
      else if (node.dataset.elsewhere === "true") send({ do: "pick", key: point.key });
    };
    set(node, { onclick: restore, onkeydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      restore();
    } });
    return node;
  }

  /** Writes a label beside each point where there is room; the first ones have the choice. */
  function letter(dots, path, height) {
    const way = path.slice(1).flatMap((to, i) => {
      const from = path[i];
      const steps = Math.ceil(Math.hypot(to.px - from.px, to.py - from.py) / 5);
      return Array.from({ length: steps }, (_, k) => [from.px + ((to.px - from.px) * k) / steps, from.py + ((to.py - from.py) * k) / steps]);
    }).map(([px, py]) => [px - 1, py - 1, px + 1, py + 1]);
    const taken = dots.flatMap((p) => [[p.px - 7, p.py - 7, p.px + 7, p.py + 7, p.key], ...(p.bar ? [[p.px - 2, p.bar[0], p.px + 2, p.bar[1], "bar"]] : [])]);
    const free = (box, key) => box[0] >= LEFT && box[2] <= width && box[1] >= 0 && box[3] <= height - BOTTOM + 14
      && !taken.some((other) => other[4] !== key && meets(box, other));
    const meets = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
    const clear = (box) => !way.some((spot) => meets(box, spot));
    const weight = (p) => (p.now || p.picked ? 4e6 : p.proposed ? 3e6 : p.baseline ? 2e6 : p.front ? 1e6 : 0) + p.recent;
    const placed = [];
    const named = dots.filter((p) => !p.elsewhere || p.front || p.picked);
    for (const p of [...named].sort((a, b) => weight(b) - weight(a))) {
      const text = p.label.length > 34 ? `${p.label.slice(0, 33)}…` : p.label;
      const w = text.length * (p.now ? 7.2 : 6.8) + 8;
      const gap = p.now ? 13 : 10;
      const right = [p.px + gap, p.py - 8, p.px + gap + w, p.py + 8];
      const left = [p.px - gap - w, p.py - 8, p.px - gap, p.py + 8];
      const over = [p.px - w / 2, p.py - gap - 16, p.px + w / 2, p.py - gap];
      const under = [p.px - w / 2, p.py + gap, p.px + w / 2, p.py + gap + 16];
      const slanted = [[8, 14], [-w - 8, 14], [8, -30], [-w - 8, -30]].map(([dx, dy]) => [p.px + dx, p.py + dy, p.px + dx + w, p.py + dy + 16]);
      const boxes = [right, left, under, over, ...slanted].filter((each) => free(each, p.key));
      const box = boxes.find(clear) ?? (p.now || p.proposed || p.baseline ? boxes[0] : null);
      if (!box || placed.some((other) => other.text === text && Math.hypot(other.x - p.px, other.y - p.py) < 90)) continue;
      taken.push([...box, null]);
      placed.push({ key: p.key, text, proposed: p.proposed && !p.now, x: (box[0] + box[2]) / 2, y: (box[1] + box[3]) / 2 + 4, now: p.now });
    }
    return placed;
  }

  function draw() {
    if (!view) return;
    plan.draw(view.plan);
    const axis = view.axes.find((each) => each.key === against) ?? view.axes[0];
    set(quiet, { text: view.label, hidden: Boolean(axis) });
    picture.style.display = axis ? "" : "none";
    keyed(toggle, axis ? ["size", "latency"] : [], String, (key) => el("button", { type: "button", text: key, onclick: () => { against = key; draw(); } }),
      (node, key) => {
        const there = view.axes.some((each) => each.key === key);
        set(node, { "aria-pressed": String(axis.key === key), disabled: !there, title: there ? `Accuracy against ${key}` : "No latency was measured yet" });
      });
    if (!axis || !width) return;
    const height = Math.round(Math.min(340, Math.max(250, width * 0.55)));
    const x = (at) => LEFT + 8 + at * (width - LEFT - RIGHT - 8);
    const y = (at) => height - BOTTOM - at * (height - TOP - BOTTOM);
    set(picture, { width, height, viewBox: `0 0 ${width} ${height}`, "aria-label": view.label.replace("{}", axis.title) });
    keyed(grid, view.ticks, (tick) => tick.text, () => svg("g", {}, svg("line", { class: "wb-grid" }), svg("text", { "text-anchor": "end" })), (node, tick) => {
      set(node.firstChild, { x1: LEFT, x2: width - RIGHT, y1: y(tick.at), y2: y(tick.at) });
      set(node.lastChild, { x: LEFT - 8, y: y(tick.at) + 4, text: tick.text });
    });
    const wide = axis.ticks.filter((tick, index) => index === 0 || x(tick.at) - x(axis.ticks[index - 1].at) > 46 || index % 2 === 0);
    keyed(ticks, wide, (tick) => tick.text, () => svg("text", { "text-anchor": "middle" }), (node, tick) => set(node, { x: x(tick.at), y: height - 24, text: tick.text }));
    keyed(titles, [{ at: "start", x: LEFT, text: `${axis.key === "size" ? "smaller" : "faster"} ←  ${axis.title} (log)` }, { at: "end", x: width - RIGHT, text: view.title }],
      (title) => title.at, (title) => svg("text", { "text-anchor": title.at }), (node, title) => set(node, { x: title.x, y: height - 5, text: title.text }));
    const front = new Set(axis.frontier);
    const others = model.get("elsewhere");
    const places = { ...others.places?.[axis.key], ...axis.places };
    const all = [...(others.points ?? []).map((p) => ({ ...ELSEWHERE, label: p.name, picked: p.key === view.picked?.key, ...p })), ...view.points];
    const dots = all.filter((p) => places[p.key]).map((p) => {
      const place = places[p.key];
      return { ...p, place, px: x(place.x), py: y(p.y), front: front.has(p.key), bar: (p.now || p.proposed) && !p.below ? [y(p.high), y(p.low)] : null };
    });
    const byKey = new Map(dots.map((p) => [p.key, p]));
    const path = axis.frontier.map((key) => byKey.get(key)).filter((p) => p && !p.below);
    const line = path.map((p, i) => `${i ? "L" : "M"}${p.px.toFixed(1)} ${p.py.toFixed(1)}`).join("");
    keyed(frontier, line ? [line] : [], () => "line", () => svg("path", { class: "wb-front" }), (node) => set(node, { d: line }));
    const foreseen = axis.ahead.map(([px, py], i) => `${i ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
    keyed(ahead, axis.ahead.length > 1 ? [foreseen] : [], () => "line", () => svg("path", { class: "wb-ahead" }, svg("title", { text: "Predicted frontier" })), (node) => set(node, { d: foreseen }));
    const limit = axis.budget !== null ? `M${x(axis.budget)} ${TOP}V${height - BOTTOM}` : view.budget !== null ? `M${LEFT} ${y(view.budget)}H${width - RIGHT}` : "";
    keyed(limits, limit ? [limit] : [], () => "limit", () => svg("path", { class: "wb-limit" }, svg("title", { text: "Budget" })), (node) => set(node, { d: limit }));
    keyed(errors, dots.filter((p) => (p.now || p.proposed) && !p.below), (p) => p.key, () => svg("path"), (node, p) =>
      set(node, { class: `wb-error${p.origin === "predicted" ? " wb-guess" : ""}`, d: `M${p.px} ${y(p.low)}V${y(p.high)}M${x(p.place.low)} ${p.py}H${x(p.place.high)}` }));
    keyed(points, dots, (p) => p.key, make, (node, p) => {
      const [title, target, shape, ring] = node.children;
      const can = p.tried || p.elsewhere;
      set(target, { r: p.elsewhere ? 8 : 13 });
      set(ring, { r: p.elsewhere ? 7 : 9 });
      set(node, {
        tabindex: p.elsewhere && !p.front ? -1 : 0, "data-elsewhere": String(Boolean(p.elsewhere)), "data-picked": String(Boolean(p.picked)),
        transform: `translate(${p.px.toFixed(1)} ${p.py.toFixed(1)})`, "aria-label": p.place.spoken + (p.now ? ", now" : "") + (p.proposed ? ", proposal" : ""), "aria-pressed": can ? String(p.now || Boolean(p.picked)) : null,
        role: can ? "button" : "img", "data-tried": String(p.tried), "data-now": String(p.now), "data-proposed": String(p.proposed), "data-origin": p.origin,
        "data-key": p.key, "data-front": String(p.front), "data-baseline": String(p.baseline), "data-growing": String(p.growing),
      });
      set(title, { text: p.now || !can ? p.place.spoken : `${p.place.spoken}\nClick to ${p.tried ? "go back to it" : "take it"}` });
      if (shape.dataset.origin !== p.origin) {
        shape.dataset.origin = p.origin;
        shape.replaceChildren(mark(p.origin, 0, 0, p.elsewhere ? 8 : 11));
      }
    });
    const origins = dots.some((p) => p.elsewhere) ? ["measured", "simulated", "predicted", "imported"].filter((o) => dots.some((p) => p.origin === o)) : [];
    const said = { measured: "measured here", simulated: "simulated here", predicted: "predicted", imported: "imported: measured elsewhere" };
    keyed(legend, origins, String, (origin) => badge({ origin, word: said[origin] }), () => {});
    set(told, { text: view.picked?.text ?? "" });
    set(measure, { text: view.picked?.button ?? "", disabled: view.picked?.disabled });
    picked.hidden = !view.picked;
    keyed(labels, letter(dots, path, height), (label) => label.key, () => svg("text", { "text-anchor": "middle" }), (node, label) =>
      set(node, { x: label.x, y: label.y, text: label.text, class: label.now ? "wb-now" : label.proposed ? "wb-proposed" : null }));
  }

  const end = sized(root, () => {
    const style = getComputedStyle(root);
    width = Math.floor(root.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    draw();
  });
  return { draw: (next) => { view = next; draw(); }, end };
});
