export default part("wb-card wb-quantization", (root, send) => {
  const update = (field) => (value) => send({ do: "update", [field]: value });
  const head = heading("Quantization");
  const bits = {
    weight_bits: stepper("Weight bits", update("weight_bits")),
    activation_bits: stepper("Activation bits", update("activation_bits")),
  };
  const chosen = {
    method: explained("Method", update("method")),
    correction: explained("Correction", update("correction")),
  };
  const finer = {
    scheme: explained("Grid", update("scheme")),
    granularity: explained("Granularity", update("granularity")),
    group_size: stepper("Group size", update("group_size")),
    range: explained("Range", update("range")),
    activation_range: explained("Activations", update("activation_range")),
    equalize: explained("Channels", update("equalize")),
    sums: explained("Additions", update("sums")),
  };
  const choose = choosing(send);
  const changed = el("small");
  const more = el("details", { class: "wb-more" }, el("summary", {}, "More", changed), ...nodes(finer));
  const why = el("div", { class: "wb-reasons" });
  root.append(head.node, ...nodes(bits), ...nodes(chosen), choose.node, more, why);
  return {
    draw(view) {
      set(head.remark, { text: view.remark });
      for (const [field, control] of Object.entries({ ...bits, ...chosen, ...finer })) control.update(view[field]);
      set(finer.group_size.node, { hidden: view.group_size.hidden });
      set(changed, { text: view.more, hidden: !view.more });
      choose.update(view.choose);
      keyed(why, view.why, (text) => text, () => el("p", { class: "wb-why" }), (node, text) => set(node, { text }));
    },
  };
});

function nodes(controls) {
  return Object.values(controls).map((control) => control.node);
}

/** "Choose for me": one button for each budget; while it tries, what is best so far and a way to end it. */
function choosing(send) {
  const name = `wb-choose-${Math.random().toString(36).slice(2)}`;
  const buttons = el("span", { class: "wb-segments", role: "group", "aria-labelledby": name });
  const stop = el("button", { type: "button", text: "Take the best so far", onclick: () => send({ do: "stop" }) });
  const said = el("p", { class: "wb-line", role: "status", "aria-live": "polite" });
  const row = el("div", { class: "wb-row" }, el("span", { id: name, class: "wb-label", text: "Choose for me" }), buttons, stop);
  return {
    node: el("div", { class: "wb-choose" }, row, said),
    update(view) {
      const focused = document.activeElement;
      set(buttons, { hidden: view.choosing });
      set(stop, { hidden: !view.choosing });
      if (buttons.contains(focused) && view.choosing) stop.focus({ preventScroll: true });
      if (focused === stop && !view.choosing) buttons.firstChild?.focus({ preventScroll: true });
      keyed(buttons, view.budgets, (budget) => budget.value,
        (budget) => el("button", { type: "button", onclick: () => send({ do: "choose", seconds: budget.value }) }),
        (node, budget) => set(node, {
          text: budget.text, disabled: view.disabled, "aria-label": `within ${budget.spoken}`, title: `Tries methods, grids and ranges for ${budget.spoken}`,
        }));
      set(said, { text: view.text, hidden: !view.text });
    },
  };
}
