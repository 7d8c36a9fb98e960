const EDGE = { left: 56, right: 76, top: 12, bottom: 42 };

/** The roofline: roofs, slope, operators as points; one is told in words below. `{node, draw(view), resize(width)}`. */
function rooflinePlot() {
  let view = null;
  let width = 0;
  let told = null; // the point that is told, by its key
  let pinned = null;
  const picture = svg("svg", { role: "group" });
  const [grid, ticks, slope, roofs, whiskers, labels, points, names, titles] = Array.from({ length: 9 }, () => svg("g"));
  picture.append(grid, ticks, slope, roofs, labels, whiskers, points, names, titles);
  const name = el("b");
  const facts = el("span");
  const readout = el("p", { class: "wb-roof-told num", "aria-live": "polite" }, name, " ", facts);
  const legend = el("p", { class: "wb-eff-legend", "aria-hidden": "true" },
    el("i", { class: "wb-roof-key", "data-limit": "compute" }), "limited by compute", el("i", { class: "wb-roof-key", "data-limit": "memory" }), "limited by memory",
    el("span", { text: "area: share of their time · whisker: the predicted range" }));
  const beside = el("p", { class: "wb-why" });
  const node = el("div", { class: "wb-roof" }, picture, readout, legend, beside);

  function tell(key) {
    told = key;
    const point = view.points.find((each) => each.key === key) ?? view.points[0];
    set(name, { text: point.key });
    set(facts, { text: point.text });
    for (const each of points.children) set(each, { "data-told": String(each.dataset.key === point.key) });
  }

  function go(step) {
    const at = view.points.findIndex((each) => each.key === (told ?? view.points[0].key));
    const next = view.points[(at + step + view.points.length) % view.points.length].key;
    pinned = next;
    for (const each of points.children) set(each, { tabindex: each.dataset.key === next ? 0 : -1 });
    [...points.children].find((each) => each.dataset.key === next)?.focus();
    tell(next);
  }

  function make(point) {
    const node = svg("g", { class: "wb-roof-point", role: "img", "data-key": point.key }, svg("circle", { class: "wb-target" }), svg("path", { class: "wb-roof-mark" }));
    return set(node, {
      onpointerenter: () => tell(point.key),
      onpointerleave: () => tell(pinned),
      onclick: () => { pinned = point.key; tell(pinned); },
      onfocus: () => { pinned = point.key; tell(pinned); },
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        go(step);
      },
    });
  }

  /** Names of the operators that take most of the time, where there is room. */
  function letter(x, y, bent) {
    const taken = view.points.slice(0, 12).map((point) => [x(point.x) - 9, y(point.y) - 9, x(point.x) + 9, y(point.y) + 9, point.key]);
    for (const { x: at, y: up, text, angle } of bent) { // along the slanted words
      const [dx, dy] = [Math.cos((angle * Math.PI) / 180) * 7, Math.sin((angle * Math.PI) / 180) * 7];
      for (let i = -text.length / 2; i <= text.length / 2; i++) taken.push([at + i * dx - 6, up + i * dy - 10, at + i * dx + 6, up + i * dy + 4, ""]);
    }
    const placed = [];
    for (const point of view.points.slice(0, 4).filter((each) => each.size > 0.3)) {
      const text = point.key.length > 22 ? `…${point.key.slice(-21)}` : point.key;
      const [w, r, at, up] = [text.length * 7 + 4, 6 + 11 * point.size, x(point.x), y(point.y)];
      const box = [[at + r, up - 8, at + r + w, up + 8, "start"], [at - r - w, up - 8, at - r, up + 8, "end"]].find((each) =>
        each[0] > EDGE.left && each[2] < width - EDGE.right && !taken.some((other) => other[4] !== point.key && each[0] < other[2] && other[0] < each[2] && each[1] < other[3] && other[1] < each[3]));
      if (!box) continue;
      taken.push([box[0], box[1], box[2], box[3], ""]);
      placed.push({ key: point.key, text, anchor: box[4], x: box[4] === "start" ? box[0] : box[2], y: up + 4 });
    }
    return placed;
  }

  /** A circle where compute is the limit, a square where memory is. */
  const shape = (limit, r) => limit === "memory" ? `M${-r * 0.89} ${-r * 0.89}h${r * 1.78}v${r * 1.78}h${-r * 1.78}z` : `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`;

  function draw() {
    set(node, { hidden: !view });
    if (!view || !width) return;
    const height = Math.round(Math.min(330, Math.max(250, width * 0.5)));
    const x = (at) => EDGE.left + at * (width - EDGE.left - EDGE.right);
    const y = (at) => height - EDGE.bottom - at * (height - EDGE.top - EDGE.bottom);
    const one = (value) => value.toFixed(1);
    set(node, { "data-many": String(view.points.length > 20) });
    set(picture, { width, height, viewBox: `0 0 ${width} ${height}`, "aria-label": view.label });
    keyed(grid, view.y.ticks, (tick) => tick.text, () => svg("g", {}, svg("line", { class: "wb-grid" }), svg("text", { "text-anchor": "end" })), (each, tick) => {
      set(each.firstChild, { x1: EDGE.left, x2: width - EDGE.right, y1: y(tick.at), y2: y(tick.at) });
      set(each.lastChild, { x: EDGE.left - 8, y: y(tick.at) + 4, text: tick.text });
    });
    keyed(ticks, view.x.ticks, (tick) => tick.text, () => svg("text", { "text-anchor": "middle" }), (each, tick) => set(each, { x: x(tick.at), y: height - EDGE.bottom + 17, text: tick.text }));
    keyed(slope, view.slope ? [view.slope] : [], () => "slope", () => svg("path", { class: "wb-roof-line", "data-used": "true" }), (each, line) => {
      const [from, to] = line.ends;
      set(each, { d: `M${one(x(from[0]))} ${one(y(from[1]))}L${one(x(to[0]))} ${one(y(to[1]))}` });
    });
    const inside = view.roofs.filter((roof) => roof.inside);
    keyed(roofs, inside, (roof) => roof.kernel, () => svg("path", { class: "wb-roof-line" }), (each, roof) =>
      set(each, { d: `M${one(x(roof.from))} ${one(y(roof.at))}H${width - EDGE.right}`, "data-used": String(roof.used) }));
    keyed(whiskers, view.points, (point) => point.key, () => svg("path", { class: "wb-roof-whisker" }), (each, point) => set(each, { d: `M${one(x(point.x))} ${one(y(point.low))}V${one(y(point.high))}` }));
    const stop = view.points.some((point) => point.key === pinned) ? pinned : view.points[0].key;
    keyed(points, view.points, (point) => point.key, make, (each, point) => {
      const r = 3 + 11 * point.size;
      set(each, { transform: `translate(${one(x(point.x))} ${one(y(point.y))})`, "aria-label": point.spoken, "data-limit": point.limit, tabindex: point.key === stop ? 0 : -1 });
      set(each.firstChild, { r: Math.max(12, r) });
      set(each.lastChild, { d: shape(point.limit, r) });
    });
    // names stand right of their roofs; of two that would meet, that of the kernel in use is written
    const named = [];
    for (const roof of [...inside].sort((a, b) => b.used - a.used)) {
      if (named.every((each) => Math.abs(each.y - 4 - y(roof.at)) >= 13)) named.push({ key: roof.kernel, x: width - EDGE.right + 6, y: y(roof.at) + 4, anchor: "start", text: roof.text, used: roof.used });
    }
    const bent = (view.slope ? [view.slope] : []).map(({ ends: [from, to], text }) => {
      const [dx, dy] = [x(to[0]) - x(from[0]), y(to[1]) - y(from[1])];
      const long = Math.hypot(dx, dy) || 1;
      // in the upper half of the slope, 7 px above it
      return { key: "memory", x: x(from[0]) + 0.58 * dx + (7 * dy) / long, y: y(from[1]) + 0.58 * dy - (7 * dx) / long, anchor: "middle", text, used: true,
        angle: (Math.atan2(dy, dx) * 180) / Math.PI, short: long < text.length * 7 };
    }).filter((each) => !each.short && width >= 420);
    keyed(labels, [...named, ...bent], (label) => label.key, () => svg("text", { class: "wb-roof-name" }), (each, label) =>
      set(each, { x: label.x, y: label.y, text: label.text, "text-anchor": label.anchor, "data-used": String(label.used), transform: label.angle ? `rotate(${one(label.angle)} ${one(label.x)} ${one(label.y)})` : null }));
    keyed(names, letter(x, y, bent), (each) => each.key, () => svg("text", { class: "wb-now", "aria-hidden": "true" }), (each, label) => set(each, { x: one(label.x), y: one(label.y), text: label.text, "text-anchor": label.anchor }));
    keyed(titles, [{ at: "end", x: width - EDGE.right, y: height - 6, text: `${view.x.title} →` }, { at: "start", x: 0, y: height - 6, text: `↑ ${view.y.title}` }],
      (title) => title.at, (title) => svg("text", { "text-anchor": title.at }), (each, title) => set(each, { x: title.x, y: title.y, text: title.text }));
    set(beside, { text: view.beside, hidden: !view.beside });
    tell(view.points.some((point) => point.key === told) ? told : stop);
  }

  return {
    node,
    draw(next) { view = next; draw(); },
    resize(now) { if (now !== width) { width = now; draw(); } },
  };
}
