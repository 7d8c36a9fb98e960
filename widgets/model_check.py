"""What will work with the model and what will not: layers, runtimes, memory, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from widgets.formatting import count, fixed, score, size
from widgets.part import Part, source
from workbench.preflight import Preflight, RuntimeCheck


def model_check_view(found: Preflight | None) -> dict[str, Any]:
    """The picture of a preflight."""
    if found is None:
        return {
            "remark": "",
            "warnings": [],
            "lines": [],
            "more": [],
            "quiet": "The model is looked at after its first numbers.",
        }
    able = sum(not (layer.weights and layer.activations) for layer in found.layers)
    layers = f"{count(able)} of {count(len(found.layers))} layers can be quantized, "
    lines = [{"ok": able > 0, "text": layers + f"{fixed(100 * found.quantizable, 1)} % of the parameters"}]
    lines += [{"ok": any(c.works for c in checks), "text": _runtime(checks)} for checks in _by_runtime(found.runtimes)]
    lines.append({"ok": True, "text": f"about {size(found.memory)} of memory"})
    more = [
        {"name": f"{check.runtime} {check.precision}", "text": check.said} for check in found.runtimes if check.said
    ]
    more += [{"name": "", "text": note} for note in found.notes]
    if found.baseline is not None:
        value = score(found.baseline.value, found.metric)
        more.append({"name": "fp32", "text": f"{found.metric.name} {value} on {count(found.examples)} examples"})
    return {
        "remark": "" if found.complete else "looking…",
        "warnings": list(found.warnings),
        "lines": lines,
        "more": more,
        "quiet": "",
    }


def _by_runtime(checks: Iterable[RuntimeCheck]) -> list[list[RuntimeCheck]]:
    found: dict[str, list[RuntimeCheck]] = {}
    for check in checks:
        found.setdefault(check.runtime, []).append(check)
    return list(found.values())


def _runtime(checks: list[RuntimeCheck]) -> str:
    working = [check.precision for check in checks if check.works]
    return f"{checks[0].runtime}: {' and '.join(working) if working else 'does not take it'}"


class ModelCheck(Part):
    """Says what was tried with the model on one batch, and what looks wrong."""

    _esm = source("model_check.js")
    watches: ClassVar[tuple[str, ...]] = ("preflight",)

    def draw(self) -> dict[str, Any]:
        """The checks so far."""
        return model_check_view(self.session.preflight)
