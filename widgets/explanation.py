"""Which layer hurts, what its grids do to its weights and its input, and which examples flip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from widgets.flip_rows import ALL, flips_view
from widgets.formatting import between, change_unit, count, figures, fixed, points, small
from widgets.part import Message, Part, source, text_of
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.explaining.explanation import Explanation, LayerEffect
    from workbench.explaining.histogram import Histogram, LayerHistogram
    from workbench.report import Estimate, MetricInfo

LONG = 20
"""Letters of a name that a button has room for."""
SAFE = 8
"""Bits at which a layer that hurts rarely does."""


def explanation_view(
    explanation: Explanation | None, *, stale: bool = False, working: str = "", active: bool = True, model: str = ""
) -> dict[str, Any]:
    """The picture of an explanation.

    Args:
        explanation: What is known; None where nothing was asked for.
        stale: It belongs to an earlier recipe.
        working: What is being looked at; "" when nothing is.
        active: Whether anything is quantized, so that it can be asked for.
        model: The name of the model, of which the browser forgets nothing else.
    """
    view: dict[str, Any] = {
        "model": model,
        "state": "empty",
        "working": working,
        "progress": 0.0,
        "ask": "Which layer hurts?",
        "able": active,
        "why": "" if active else "Nothing is quantized yet.",
        "answer": [],
        "badge": None,
        "keep": None,
        "rows": [],
        "heads": [],
        "notes": [],
    }
    if explanation is None or not (explanation.layers or explanation.complete):
        return view
    metric = explanation.metric
    longest = max([1e-9, *(e.value for row in explanation.layers for e in (row.off, row.on) if e is not None)])
    unit = change_unit(metric) or metric.name
    view |= {
        "state": "stale" if stale else "growing" if working else "final",
        "progress": round(explanation.done / explanation.total, 3) if explanation.total else 1.0,
        "ask": "Which layer hurts now?" if stale else "Look again",
        "answer": _answer(explanation),
        "badge": {"origin": "simulated", "word": "simulated"} if explanation.examples else None,
        "keep": None if stale else _keep(explanation),
        "rows": [_row(row, explanation, longest) for row in _in_order(explanation)],
        "heads": ["Layer", f"Won back in fp32, {unit}", f"Lost by it alone, {unit}"],
        "notes": list(explanation.notes),
        "remark": f"{explanation.recipe.label} · {count(explanation.examples)} examples"
        if explanation.examples
        else explanation.recipe.label,
    }
    return view


def _in_order(explanation: Explanation) -> list[LayerEffect]:
    """The worst first; until all were looked at, as they stand in the network, so that no row moves."""
    if not explanation.scanned:
        return list(explanation.layers)
    return sorted(
        explanation.layers, key=lambda row: (row.name != explanation.hurts, -(row.off.value if row.off else 0.0))
    )


def _answer(explanation: Explanation) -> list[dict[str, str]]:
    """The sentence in pieces: the layer stands out."""
    text = explanation.sentence.replace("-", "\u2212") if not explanation.hurts else explanation.sentence
    name = explanation.hurts
    if name is None or not text.startswith(name):
        return [{"text": text, "tone": "faint" if explanation.scanned else ""}]
    return [{"text": name, "tone": "layer"}, {"text": text[len(name) :], "tone": ""}]


def _keep(explanation: Explanation) -> dict[str, Any] | None:
    """What can be done about the layer that hurts: more bits for what has fewer, or none at all."""
    if explanation.hurts is None:
        return None
    row = explanation.layer(explanation.hurts)
    name = row.name if len(row.name) <= LONG else "it"
    fewest = min(bits for bits in (row.weight_bits, row.activation_bits) if bits is not None)
    offers = [{"bits": SAFE, "text": f"Keep {name} in {SAFE} bits"}] if fewest < SAFE else []
    return {"layer": row.name, "offers": [*offers, {"bits": None, "text": f"Keep {name} in fp32"}]}


def _row(row: LayerEffect, explanation: Explanation, longest: float) -> dict[str, Any]:
    metric = explanation.metric
    bits = " ".join(f"{letter}{n}" for letter, n in (("W", row.weight_bits), ("A", row.activation_bits)) if n)
    noise = [
        f"{what} {figures(x)} dB" for what, x in (("weights", row.weight_sqnr), ("input", row.activation_sqnr)) if x
    ]
    share = row.weight_share
    return {
        "name": row.name,
        "what": f"{row.kind} · {bits}",
        "noise": f"SQNR: {', '.join(noise)}" if noise else "",
        "hurts": row.name == explanation.hurts,
        "off": _bar(row.off, metric, longest, "would come back if it alone returned to fp32"),
        "on": _bar(row.on, metric, longest, "is lost when it alone is quantized")
        | {"split": round(share, 3) if share is not None else None},
        "parts": row.parts,
    }


def _bar(effect: Estimate | None, metric: MetricInfo, longest: float, what: str) -> dict[str, Any]:
    if effect is None:
        return {"text": "", "at": 0.0, "low": 0.0, "high": 0.0, "certain": False, "title": "", "interval": ""}
    write = points if metric.share else small
    certain = not effect.includes(0)
    interval = between(write(effect.low), write(effect.high))
    unit = change_unit(metric) or metric.name

    def place(value: float) -> float:
        return round(min(1.0, max(0.0, value / longest)), 4)

    return {
        "text": write(effect.value),
        "at": place(effect.value),
        "low": place(effect.low),
        "high": place(effect.high),
        "certain": certain,
        "interval": interval,
        "title": f"{write(effect.value)} {unit} {interval} {what}"
        + ("" if certain else "; not distinguishable from nothing"),
    }


def histogram_view(made: LayerHistogram) -> dict[str, Any]:
    """The pictures of one layer: heights are square roots of counts, so that rare values are seen."""
    parts = [(name, each) for name, each in (("Weights", made.weights), ("Input", made.inputs)) if each is not None]
    return {"layer": made.layer, "plots": [_plot(name, each) for name, each in parts], "notes": list(made.notes)}


def _plot(name: str, made: Histogram) -> dict[str, Any]:
    most = max([*made.before, *made.after, 1e-9]) ** 0.5
    span = made.high - made.low

    def place(value: float) -> float:
        return round(min(1.5, max(-0.5, (value - made.low) / span)), 4)  # of some channels the ends lie far outside

    limits = [] if made.clip_low is None or made.clip_high is None else [made.clip_low, made.clip_high]
    said = f"{_number(made.minimum)} to {_number(made.maximum)}"
    if made.bits is None:
        told = "stays in fp32"
    else:
        clipped = f"{fixed(100 * made.clipped)} % clipped" if made.clipped else "none clipped"
        told = f"{made.bits} bits, {clipped}" + (f", SQNR {figures(made.sqnr)} dB" if made.sqnr is not None else "")
    return {
        "name": name,
        "bits": made.bits,
        "before": [round(n**0.5 / most, 4) for n in made.before],
        "after": [round(n**0.5 / most, 4) for n in made.after],
        "values": [place(value) for value in made.values],
        "limits": [{"from": place(low), "to": place(high)} for low, high in limits],
        "ends": [_number(made.low), _number(made.high)],
        "range": said,
        "told": told,
        "label": f"{name} of the layer, {said}: {told}",
    }


def _number(value: float) -> str:
    return small(value) if abs(value) < 1000 else figures(value)


class ExplanationPart(Part):
    """A button that answers "Which layer hurts?", the layers with their effects, and the examples that flip."""

    _esm = source("explanation.js")
    watches: ClassVar[tuple[str, ...]] = (
        "recipe",
        "model",
        "explanation",
        "explaining",
        "flip_list",
        "histograms",
    )

    def __init__(self, session: Any, **traits: Any) -> None:
        self._page: dict[str, Any] = {"kind": "lost", "layer": ALL, "at": 0}
        self._pictures: dict[Any, dict[str, str]] = {}
        super().__init__(session, **traits)

    def draw(self) -> dict[str, Any]:
        """The explanation and one page of the flips; what belongs to an earlier recipe is greyed."""
        session = self.session
        recipe, found = session.recipe, session.explanation
        stale = found is not None and found.recipe != recipe
        view = explanation_view(
            found, stale=stale, working=session.explaining, active=recipe.quantization.active, model=session.model
        )
        view["of"] = recipe.key
        view["histograms"] = {name: histogram_view(made) for name, made in session.histograms.items()}
        flips = session.flip_list
        view["flips"] = flips_view(flips, getattr(session.bench, "task", None), self._page, self._pictures)
        return view

    def actions(self) -> dict[str, Any]:
        """What the browser may ask for.

        ``explain``, ``stop``; ``histogram`` of a ``layer``; ``keep`` a ``layer`` in ``bits`` (8, or None: fp32);
        ``page`` of the flips: a ``kind``, a ``layer`` that undoes them or "", and where ``at`` it begins.
        """
        return {
            "explain": lambda _: self.session.explain(),
            "stop": lambda _: self.session.stop_explaining(),
            "histogram": lambda message: self.session.show_histogram(text_of(message, "layer")),
            "keep": self._keep,
            "page": self._turn,
        }

    def _keep(self, message: Message) -> None:
        layer, bits = text_of(message, "layer"), message.get("bits")
        found = self.session.explanation
        rows = {} if found is None or found.recipe != self.session.recipe else {row.name: row for row in found.layers}
        if layer not in rows:
            raise WorkbenchError(f"{layer!r:.60} was not explained for this recipe; ask which layer hurts first.")
        if bits not in (SAFE, None) or isinstance(bits, bool):
            raise WorkbenchError(f"bits = {bits!r:.20}: {SAFE}, or none for fp32, is needed.")
        own = {"weight_bits": rows[layer].weight_bits, "activation_bits": rows[layer].activation_bits}
        wanted = {part: bits for part, now in own.items() if now is not None and (bits is None or now < bits)}
        if not wanted:
            raise WorkbenchError(f"{layer} has {SAFE} bits already.")
        self.session.set_layers([layer], **wanted)

    def _turn(self, message: Message) -> None:
        kind, layer, at = text_of(message, "kind"), text_of(message, "layer"), message.get("at")
        if kind not in ("lost", "gained"):
            raise WorkbenchError(f"kind = {kind!r:.40}: 'lost' or 'gained' is needed.")
        if not isinstance(at, int) or isinstance(at, bool) or at < 0:
            raise WorkbenchError(f"at = {at!r:.40}: the place of a row, from 0, is needed.")
        self._page = {"kind": kind, "layer": layer, "at": at}
        self.refresh()
