const fraction = (value) => `${(100 * value).toFixed(2)}%`;

function bar(node, view) {
  const kind = view?.kind ?? "none";
  if (node.dataset.kind !== kind) {
    node.dataset.kind = kind;
    const marks = { interval: ["rail", "band", "base", "tick"], share: ["rail", "fill"], split: ["lost", "won"], none: ["rail"] };
    node.replaceChildren(...marks[kind].map((name) => el("i", { class: `wb-${name}` })));
  }
  const at = (name, style) => set(node.querySelector(`.wb-${name}`), { style });
  if (kind === "interval") {
    at("band", { left: fraction(view.low), width: fraction(view.high - view.low) });
    at("tick", { left: fraction(view.at) });
    at("base", { left: fraction(view.baseline) });
  } else if (kind === "share") {
    at("fill", { width: fraction(view.share) });
  } else if (kind === "split") {
    at("lost", { width: fraction(view.share) });
    at("won", { left: fraction(view.share), width: fraction(1 - view.share) });
  }
}

function make() {
  const name = el("span", { class: "wb-name" });
  const place = el("span", { class: "wb-place" });
  const value = el("span", { class: "wb-number" });
  const unit = el("small");
  const detail = el("div", { class: "wb-detail num" });
  const strip = el("div", { class: "wb-bar", "aria-hidden": "true" });
  const sign = el("span", { class: "wb-sign" });
  const where = el("span");
  const range = el("b");
  const there = el("div", { class: "wb-there num" }, sign, range, where);
  const node = el("div", { class: "wb-tile", role: "group" }, el("div", { class: "wb-head" }, name, place),
    el("div", { class: "wb-value num" }, value, unit), detail, strip, there);
  node.update = (view) => {
    set(node, { "data-state": view.state, title: view.title || null, "aria-label": view.name, "data-tile": view.name.split(",")[0], "data-origin": view.badge?.origin ?? null });
    set(name, { text: view.name });
    set(value, { text: view.value });
    set(unit, { text: view.unit });
    const origin = view.badge ? `${view.badge.origin} ${view.badge.word}` : "";
    if (place.dataset.origin !== origin) {
      place.dataset.origin = origin;
      place.replaceChildren(...(view.badge ? [badge(view.badge)] : []));
    }
    pieces(detail, view.parts);
    bar(strip, view.bar);
    set(there, { hidden: !view.there });
    if (!view.there) return;
    set(where, { text: ` on ${view.there.name}` });
    set(range, { text: view.there.text });
    set(there, { title: `${view.there.name}: ${view.there.text}, ${view.there.origin}` });
    if (sign.dataset.origin === view.there.origin) return;
    sign.dataset.origin = view.there.origin;
    sign.replaceChildren(svg("svg", { viewBox: "0 0 10 10", width: 9, height: 9, role: "img", "aria-label": view.there.origin }, mark(view.there.origin, 5, 5, 9)));
  };
  return node;
}

export default part("wb-tiles", (root) => {
  const grid = el("div", { class: "wb-four" });
  root.append(grid);
  return {
    draw: (view) => keyed(grid, view.tiles, (tile) => tile.name.split(",")[0], make, (node, tile) => node.update(tile)),
  };
});
