export default part("wb-picker", (root, send) => {
  const model = chooser("Model", (value) => send({ do: "choose", model: value }));
  model.node.classList.replace("wb-row", "wb-inline");
  const description = el("span", { class: "wb-where" });
  root.append(el("h1", { text: "Acceleration Workbench" }), model.node, description);
  return {
    draw(view) {
      model.update(view);
      set(description, { text: view.description, title: view.description });
    },
  };
});
