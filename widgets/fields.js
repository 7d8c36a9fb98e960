/** Choices of which any may be taken, each a button that is pressed or not: `[{value, text, spoken, chosen, disabled}]`. */
function keys(label, title, send) {
  const id = `wb-${++serial}-${Math.random().toString(36).slice(2)}`;
  const group = el("span", { class: "wb-segments", role: "group", "aria-labelledby": id });
  return {
    node: el("div", { class: "wb-row" }, el("span", { id, class: "wb-label", text: label, title }), group),
    update(items) {
      keyed(group, items, (item) => item.value,
        (item) => el("button", { type: "button", text: item.text, title: item.spoken, "aria-label": item.spoken, onclick: () => send(item.value) }),
        (node, item) => set(node, { "aria-pressed": String(item.chosen), disabled: item.disabled }));
    },
  };
}

/** A whole number in a field; what Python does not take goes back to what it was. */
function seeding(send) {
  const id = `wb-seed-${Math.random().toString(36).slice(2)}`;
  const input = el("input", { type: "text", inputmode: "numeric", id, autocomplete: "off" });
  const hold = held((value) => {
    input.value = value;
  });
  set(input, {
    onfocus: () => hold.hold(true),
    onchange: () => {
      const text = input.value.trim();
      const value = /^\d+$/.test(text) ? Number(text) : text;
      hold.mine(value);
      send(value);
    },
    onblur: () => hold.hold(false),
  });
  return {
    node: el("div", { class: "wb-row" }, el("label", { for: id, text: "Seed" }), input),
    update(view) {
      set(input, { disabled: view.disabled });
      hold.theirs(view.value);
    },
  };
}
