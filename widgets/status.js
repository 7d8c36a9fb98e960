export default part("wb-status", (root, send) => {
  const text = el("span", { class: "wb-text num" });
  const fill = el("i");
  const meter = el("span", { class: "wb-meter", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
  const cancel = el("button", { type: "button", class: "wb-plain", text: "Cancel", onclick: () => send({ do: "cancel" }) });
  const aside = el("span", { class: "wb-aside num" });
  const spoken = el("span", { class: "wb-hidden", role: "status", "aria-live": "polite" });
  const problem = el("div", { class: "wb-problem", role: "alert" });
  const dot = el("span", { class: "wb-dot", "aria-hidden": "true" });
  root.append(el("span", { class: "wb-chip" }, dot, el("span", { class: "wb-lines" }, text, meter, aside), cancel), spoken, problem);
  let saidAt = -Infinity;
  let said = "";
  return {
    draw(view) {
      set(root, { "data-state": view.state });
      set(text, { text: view.text });
      set(aside, { text: view.aside, hidden: !view.aside });
      set(fill, { style: { width: `${100 * view.progress}%` } });
      set(meter, { "aria-valuenow": Math.round(100 * view.progress), "aria-hidden": !view.working && "true" });
      set(cancel, { disabled: !view.working });
      set(problem, { text: view.problem, hidden: !view.problem });
      // a reader hears the beginning, the end, and now and then how far it is
      if (view.state !== said || (view.working && performance.now() - saidAt > 4000)) {
        set(spoken, { text: view.text });
        said = view.state;
        saidAt = performance.now();
      }
    },
  };
});
