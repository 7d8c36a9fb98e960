export default part("wb-card wb-check", (root) => {
  const head = heading("Model check");
  const quiet = el("p", { class: "wb-quiet" });
  const warnings = el("ul", { class: "wb-warnings", role: "status" });
  const lines = el("ul");
  const summary = el("summary", { text: "Details" });
  const more = el("dl");
  const details = el("details", {}, summary, more);
  root.append(head.node, quiet, warnings, lines, details);
  return {
    draw(view) {
      set(head.remark, { text: view.remark });
      set(quiet, { text: view.quiet, hidden: !view.quiet });
      keyed(warnings, view.warnings, String, () => el("li"), (node, text) => set(node, { text }));
      keyed(lines, view.lines, (line) => line.text, () => el("li", {}, el("b"), el("span")), (node, line) => {
        set(node, { "data-ok": String(line.ok) });
        set(node.firstChild, { text: line.ok ? "✓" : "–", "aria-label": line.ok ? "works" : "does not work" });
        set(node.lastChild, { text: line.text });
      });
      set(details, { hidden: !view.more.length });
      keyed(more, view.more, (each) => each.name + each.text, () => el("div", {}, el("dt"), el("dd")), (node, each) => {
        set(node.firstChild, { text: each.name, hidden: !each.name });
        set(node.lastChild, { text: each.text });
      });
    },
  };
});
