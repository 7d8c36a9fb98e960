export default part("wb-card wb-verdict", (root, send) => {
  const bold = el("b");
  const reason = el("span");
  const suggestion = el("span");
  const button = el("button", { type: "button", text: "Try it", onclick: () => send({ do: "take" }) });
  const notes = el("p", { class: "wb-why" });
  const warnings = el("ul", { class: "wb-warnings", role: "status" });
  root.append(el("p", { "aria-live": "polite" }, bold, " ", reason, " ", suggestion, " ", button), notes, warnings);
  return {
    draw(view) {
      set(root, { "data-state": view.state });
      const more = view.reason ? ":" : view.suggestion ? "." : "";
      set(bold, { text: view.verdict && view.verdict.replace(/[.:]$/, "") + more });
      set(reason, { text: view.reason });
      set(suggestion, { text: view.suggestion });
      set(button, { hidden: !view.offer, disabled: view.state === "stale" });
      set(notes, { text: view.notes, hidden: !view.notes });
      keyed(warnings, view.warnings, String, () => el("li"), (node, text) => set(node, { text }));
    },
  };
});
