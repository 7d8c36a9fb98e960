const TYPING = "input:not([type=range]):not([type=button]):not([type=checkbox]), textarea, [contenteditable], .cm-editor";

export default part("wb-history", (root, send) => {
  const button = (name, sign, word, keys, shown = true) =>
    el("button", { type: "button", class: "wb-plain", "aria-label": `${word} (${keys})`, title: `${word} (${keys})`, onclick: () => send({ do: name }) },
      el("span", { text: sign, "aria-hidden": "true" }), ...(shown ? [el("span", { class: "wb-word", text: word })] : []));
  const undo = button("undo", "↶", "Undo", "Ctrl+Z");
  const redo = button("redo", "↷", "Redo", "Ctrl+Shift+Z", false);
  const leave = el("button", { type: "button", class: "wb-leave", text: "Export…", title: "Save the recipe on the screen as a model", onclick: () => {
    const forms = home().querySelector(".wb-export select");
    forms?.scrollIntoView({ block: "center", behavior: "smooth" });
    forms?.focus({ preventScroll: true });
  } });
  root.append(undo, redo, leave);
  const home = () => root.closest(".workbench") ?? root;
  const onkey = (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey || event.key.toLowerCase() !== "z") return;
    const target = event.target instanceof Element ? event.target : document.body;
    const alone = target === document.body && document.querySelectorAll(".wb-history").length === 1;
    if (!(alone || home().contains(target)) || target.closest(TYPING)) return;
    event.preventDefault();
    event.stopPropagation();
    // whether or not the buttons can be pressed yet: Python knows, and they are drawn a moment later
    send({ do: event.shiftKey ? "redo" : "undo" });
  };
  document.addEventListener("keydown", onkey, true);
  return {
    draw(view) {
      set(undo, { disabled: !view.undo });
      set(redo, { disabled: !view.redo });
    },
    end: () => document.removeEventListener("keydown", onkey, true),
  };
});
