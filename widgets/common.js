// What every part shares; this text stands before each part's own. Text is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";
let serial = 0;

/** Sets attributes, text, style and listeners, and touches the page only where something differs. */
function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") {
      if (node.textContent !== String(value)) node.textContent = value;
    } else if (name === "style") {
      for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    } else if (name.startsWith("on")) {
      node.addEventListener(name.slice(2), value);
    } else if (value === false || value === null || value === undefined) {
      node.removeAttribute(name);
    } else {
      const text = value === true ? "" : String(value);
      if (node.getAttribute(name) !== text) node.setAttribute(name, text);
    }
  }
  return node;
}

function el(tag, attributes = {}, ...children) {
  const node = set(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = set(document.createElementNS(SVG, tag), attributes);
  node.append(...children);
  return node;
}

/** Makes the children of `parent` follow `items` by key: nodes are kept, moved, and keep their focus. */
function keyed(parent, items, key, make, update) {
  const before = parent.keyedNodes ?? new Map();
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const after = new Map(items.map((item) => [key(item), before.get(key(item)) ?? make(item)]));
  for (const [name, node] of before) if (after.get(name) !== node) node.remove();
  let place = parent.firstChild;
  for (const item of items) {
    const node = after.get(key(item));
    update(node, item);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  parent.keyedNodes = after;
  if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

/** Sends at most once in `ms`; of what comes in between only the last, and that always. */
function throttle(send, ms = 60) {
  let timer = null;
  let last = -Infinity;
  let waiting;
  return (value) => {
    waiting = value;
    timer ??= setTimeout(() => {
      timer = null;
      last = performance.now();
      send(waiting);
    }, Math.max(0, last + ms - performance.now()));
  };
}

/** What a person has just set wins over what Python says, until both agree or Python had 2 s to answer. */
function held(apply) {
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  let mine;
  let theirs;
  let busy = false;
  let timer = null;
  const settle = () => {
    timer = null;
    if (!busy && theirs) apply(theirs.value, theirs.more);
  };
  return {
    hold(active) {
      busy = active;
      if (!active && timer === null) settle();
    },
    mine(value) {
      mine = value;
      clearTimeout(timer);
      timer = setTimeout(settle, 2000);
    },
    theirs(value, more) {
      theirs = { value, more };
      if (timer !== null && same(value, mine)) {
        clearTimeout(timer);
        timer = null;
      }
      if (timer === null && !busy) apply(value, more);
    },
  };
}

/** A slider over a list of values: `update({values, texts, spoken, value, disabled})`; `send(value)`. */
function stepper(label, send) {
  const id = `wb-${++serial}-${Math.random().toString(36).slice(2)}`;
  const input = el("input", { type: "range", id, min: 0, step: 1 });
  const output = el("output", { for: id, class: "num" });
  const node = el("div", { class: "wb-row" }, el("label", { for: id, text: label }), input, output);
  const later = throttle(send);
  let shown = { values: [], texts: [], spoken: [] };
  const write = (index) => {
    const fill = shown.values.length > 1 ? index / (shown.values.length - 1) : 0;
    input.style.setProperty("--at", fill);
    set(output, { text: shown.texts[index] ?? "" });
    set(input, { "aria-valuetext": shown.spoken[index] ?? shown.texts[index] ?? "" });
  };
  const hold = held((value) => {
    const index = Math.max(0, shown.values.indexOf(value));
    if (Number(input.value) !== index) input.value = index;
    write(index);
  });
  set(input, {
    oninput: () => {
      const index = Number(input.value);
      write(index);
      hold.mine(shown.values[index]);
      later(shown.values[index]);
    },
    onpointerdown: () => hold.hold(true),
    onpointerup: () => hold.hold(false),
    onpointercancel: () => hold.hold(false),
    onblur: () => hold.hold(false),
  });
  return {
    node,
    update(view) {
      shown = view;
      set(input, { max: Math.max(0, view.values.length - 1), disabled: view.disabled || view.values.length < 2 });
      hold.theirs(view.value);
    },
  };
}

/** A drop-down: `update({options: [{value, text, disabled, title}], value, disabled})`; `send(value)`. */
function chooser(label, send) {
  const id = `wb-${++serial}-${Math.random().toString(36).slice(2)}`;
  const input = el("select", { id });
  const node = el("div", { class: "wb-row" }, el("label", { for: id, text: label }), input);
  let options = [];
  const hold = held((value) => {
    input.selectedIndex = options.findIndex((option) => option.value === value);
  });
  input.addEventListener("change", () => {
    const { value } = options[input.selectedIndex];
    hold.mine(value);
    send(value);
  });
  return {
    node,
    input,
    update(view) {
      if (JSON.stringify(options) !== JSON.stringify(view.options)) {
        options = view.options;
        input.replaceChildren(...options.map((o) => el("option", { text: o.text, disabled: o.disabled, title: o.title ?? null })));
      }
      set(input, { disabled: view.disabled });
      hold.theirs(view.value);
    },
  };
}

/** A drop-down with a line under it that says what the chosen value does. */
function explained(label, send) {
  const control = chooser(label, send);
  const line = el("p", { class: "wb-line", id: `${control.input.id}-line` });
  set(control.input, { "aria-describedby": line.id });
  return {
    node: el("div", {}, control.node, line),
    update(view) {
      control.update(view);
      set(line, { text: view.line });
    },
  };
}

/** The mark of an origin, `size` px wide, centred on (x, y): its shape says the same as its colour. */
function mark(origin, x, y, size) {
  const r = size / 2;
  const shapes = {
    measured: () => [svg("circle", { cx: x, cy: y, r, fill: "currentColor" })],
    simulated: () => [
      svg("circle", { cx: x, cy: y, r: r - 0.75, fill: "var(--card)", stroke: "currentColor", "stroke-width": 1.5 }),
      svg("path", { d: `M${x} ${y - r}a${r} ${r} 0 0 0 0 ${2 * r}z`, fill: "currentColor" }),
    ],
    predicted: () => [
      svg("circle", {
        cx: x, cy: y, r: r - 0.75, fill: "var(--card)", stroke: "currentColor", "stroke-width": 1.5, "stroke-dasharray": "2.2 1.6",
      }),
    ],
    imported: () => [
      svg("path", {
        d: `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}z`, fill: "var(--card)", stroke: "currentColor", "stroke-width": 1.5,
      }),
    ],
  };
  return svg("g", { class: `wb-${origin}` }, ...(shapes[origin] ?? shapes.imported)());
}

/** An origin as a badge: mark and word. */
function badge({ origin, word }) {
  const picture = svg("svg", { viewBox: "0 0 10 10", width: 9, height: 9, "aria-hidden": "true" }, mark(origin, 5, 5, 9));
  return el("span", { class: `wb-badge wb-${origin}`, "data-origin": origin }, picture, el("span", { text: word }));
}

/** Pieces of a sentence, each with a tone: `[{text, tone}]`. */
function pieces(parent, parts) {
  keyed(
    parent,
    parts.map((part, index) => ({ ...part, index })),
    (part) => part.index,
    () => el("span"),
    (node, part) => set(node, { text: part.text, class: part.tone ? `wb-${part.tone}` : null }),
  );
}

/** The heading of a card, with a quiet remark on the right. */
function heading(text) {
  const remark = el("small");
  return { node: el("h2", {}, el("span", { text }), remark), remark };
}

/** Calls `draw` at once and whenever the width of `node` changes; returns what ends that. */
function sized(node, draw) {
  let width = 0;
  const observer = new ResizeObserver(() => {
    const now = Math.round(node.clientWidth);
    if (now && now !== width) draw((width = now));
  });
  observer.observe(node);
  return () => observer.disconnect();
}

/** Builds a part once and draws it whenever its view changes. `build(root, send, model)` returns `{draw, end}`. */
function part(classes, build) {
  return {
    render({ model, el: root }) {
      root.classList.add("wb", ...classes.split(" "));
      const { draw, end } = build(root, (message) => model.send(message), model);
      const update = () => {
        const view = model.get("view");
        if (Object.keys(view).length) draw(view);
        mark();
      };
      const mark = () => set(root, { "data-recipe": model.get("drawn_for") });
      model.on("change:view", update);
      model.on("change:drawn_for", mark);
      update();
      return () => {
        model.off("change:view", update);
        model.off("change:drawn_for", mark);
        end?.();
      };
    },
  };
}
