export default part("wb-card wb-guess", (root, send) => {
  const question = el("h2");
  const slider = stepper("Your guess", (value) => send({ do: "guess", value }));
  const unit = el("small");
  slider.node.append(unit);
  const show = el("button", { type: "button", class: "wb-go", text: "Show", onclick: () => send({ do: "show" }) });
  const waiting = el("span", { class: "wb-why num" });
  const interval = el("i", { class: "wb-band" });
  const value = el("i", { class: "wb-tick" });
  const bar = el("div", { class: "wb-row", "aria-hidden": "true" }, el("span", { class: "wb-label", text: "Measured" }),
    el("div", { class: "wb-bar" }, el("i", { class: "wb-rail" }), interval, value));
  const told = el("span");
  const sign = el("span");
  const answer = el("p", { class: "wb-answer num" }, sign, " ", told);
  const spoken = el("div", { "aria-live": "polite" }, answer);
  root.append(question, slider.node, bar, el("div", { class: "wb-actions" }, show, waiting), spoken);
  // a slider's handle stops half its width before either end of its track
  const along = (at) => `calc(8px + (100% - 16px) * ${at})`;
  return {
    draw(view) {
      set(question, { text: view.question });
      slider.update(view.guess);
      set(unit, { text: view.unit });
      set(show.parentNode, { hidden: !view.can_show && !view.waiting });
      set(show, { hidden: !view.can_show });
      set(waiting, { text: view.waiting, hidden: !view.waiting });
      const { answer: found } = view;
      set(answer, { hidden: !found });
      bar.style.visibility = found ? "" : "hidden"; // its place is kept
      if (!found) return;
      set(interval, { style: { left: along(found.low), width: `calc((100% - 16px) * ${found.high - found.low})` } });
      set(value, { style: { left: along(found.value) } });
      if (sign.dataset.origin !== found.origin.origin) {
        sign.dataset.origin = found.origin.origin;
        sign.replaceChildren(badge(found.origin));
      }
      pieces(told, found.text);
    },
  };
});
