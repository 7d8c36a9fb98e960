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
  const node = el("div", { class: "wb-tile", role: "group" }, el("div", { class: "wb-head" }, name, place),
    el("div", { class: "wb-value num" }, value, unit), detail, strip);
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
