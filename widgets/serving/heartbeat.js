const MISSED = 2; // questions without an answer before the server is asked what became of the kernel

/** The kernel behind an app's page and how to ask the server for it; null outside of an app. */
function kernelOfThisPage() {
  const config = document.getElementById("jupyter-config-data");
  if (!document.body.dataset.voila || !config) return null;
  const { baseUrl, kernelId } = JSON.parse(config.textContent);
  return kernelId ? `${baseUrl}api/kernels/${kernelId}` : null;
}

/** Why there is no answer, in words; "" where the kernel is only busy. */
async function reason(address) {
  try {
    const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(2000) });
    if (answer.status === 404) return "its kernel was stopped";
    if (!answer.ok) return "the server does not know this browser any more";
    const { execution_state: state } = await answer.json();
    return state === "busy" ? "" : "its kernel was killed and has lost everything";
  } catch {
    return "the server cannot be reached; this goes away if it was only the network";
  }
}

function banner() {
  const node = document.createElement("div");
  node.setAttribute("role", "alert");
  node.className = "session-ended";
  node.style.cssText =
    "position:fixed;z-index:10000;left:0;right:0;top:0;display:none;flex-wrap:wrap;gap:8px 16px;align-items:center;" +
    "justify-content:center;padding:10px 16px;background:#8a3200;color:#fff;" +
    'font:14px/1.45 Inter,system-ui,-apple-system,"Segoe UI",sans-serif';
  const text = document.createElement("span");
  const button = document.createElement("button");
  button.textContent = "Start a new session";
  button.style.cssText =
    "min-height:40px;padding:6px 14px;font:inherit;font-weight:600;color:#8a3200;background:#fff;border:0;border-radius:6px;cursor:pointer";
  node.append(text, button);
  document.body.append(node);
  return { node, text, button };
}

function render({ model, el }) {
  const address = kernelOfThisPage();
  if (!address) return undefined;
  el.classList.add("heartbeat"); // the page's style sheet gives its cell no height
  el.style.display = "none";
  const { node, text, button } = banner();
  let asked = 0;
  let answered = 0;
  let suspicious = false;

  const show = (why) => {
    const words = why && `The session has ended (${why}).`;
    if (words && text.textContent !== words) text.textContent = words;
    node.style.display = why ? "flex" : "none";
  };
  const beat = async () => {
    const why = asked - answered >= MISSED ? await reason(address) : "";
    // Twice: a kernel that has just finished something long looks idle before its answers arrive.
    if (suspicious && why && asked - answered >= MISSED) show(why);
    suspicious = why !== "";
    asked += 1;
    model.send({ ping: asked });
  };
  const hear = ({ pong }) => {
    answered = Math.max(answered, pong);
    suspicious = false;
    show("");
  };
  model.on("msg:custom", hear);
  const timer = setInterval(beat, 1000 * model.get("interval"));
  // Without a server there is nothing to load, and what is on the page would be lost.
  button.addEventListener("click", () =>
    fetch(address, { cache: "no-store" }).then(
      () => location.reload(),
      () => show("the server cannot be reached; ask whoever runs it to start it again"),
    ),
  );
  return () => {
    clearInterval(timer);
    model.off("msg:custom", hear);
    node.remove();
  };
}

export default { render };
