"""One row per layer: what it is, its share of the weights, its bits, and what its quantization costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.formatting import between, count, figures, fixed, points, size
from widgets.part import Message, Part, changes_of, source
from workbench.errors import WorkbenchError
from workbench.recipe import Quantization
from workbench.report import LayerRow

if TYPE_CHECKING:
    from workbench.bench import LayerInfo

FIELDS = ("weight_bits", "activation_bits")


def layers_view(
    layers: Sequence[LayerInfo], quantization: Quantization, measured: Mapping[str, LayerRow], fresh: frozenset[str]
) -> dict[str, Any]:
    """The picture of the layers.

    Args:
        layers: Of the model, in the order of execution.
        quantization: Of the recipe on the screen; the bits that are shown.
        measured: The latest known row of each layer, by name.
        fresh: Names of the rows that belong to the recipe on the screen; the others are drawn greyed.
    """
    known = [measured.get(layer.name) or layer for layer in layers]  # a student's layers are smaller than the model's
    total = sum(layer.parameters for layer in known) or 1
    costs = [row.cost.value for row in measured.values() if row.cost]
    worst = max([*costs, 1e-4])
    rows = []
    for order, layer in enumerate(known):
        weight_bits, activation_bits = quantization.bits_for(layer.name)
        row = measured.get(layer.name)
        share = layer.parameters / total
        rows.append(
            {
                "name": layer.name,
                "order": order,
                "what": f"{layer.kind} {'×'.join(map(str, layer.shape))}",
                "parameters": layer.parameters,
                "count": count(layer.parameters),
                "share": round(share, 4),
                "share_title": f"{fixed(100 * share, 1)} % of the parameters"
                + (f", {size(row.bytes)} in the file" if row else ""),
                "weight_bits": weight_bits,
                "activation_bits": activation_bits,
                "own": weight_bits != quantization.weight_bits or activation_bits != quantization.activation_bits,
                "fresh": layer.name in fresh,
                "sqnr": figures(row.sqnr) if row and row.sqnr is not None else "",
                **_cost(row, worst),
            }
        )
    changed = any(row["own"] for row in rows) or bool(quantization.layers)
    return {"rows": rows, "sorted_by_cost": bool(costs), "changed": changed}


def _cost(row: LayerRow | None, worst: float) -> dict[str, Any]:
    if row is None or row.cost is None:
        return {"cost": None, "cost_text": "", "cost_share": 0.0, "cost_title": "", "certain": False}
    cost = row.cost
    interval = between(points(cost.low), points(cost.high))
    return {
        "cost": round(cost.value, 6),
        "cost_text": points(cost.value),
        "cost_share": round(max(0.0, cost.value) / worst, 4),
        "cost_title": f"{points(cost.value)} points {interval} would be won back in fp32"
        + ("; not distinguishable from nothing" if cost.includes(0) else ""),
        "certain": not cost.includes(0),
    }


class LayerTable(Part):
    """The layers of the model; rows are set one by one or several at once."""

    _esm = source("layer_table.js")
    watches: ClassVar[tuple[str, ...]] = ("bench", "recipe", "report", "stale")
    _rows: Mapping[str, LayerRow] = {}

    def draw(self) -> dict[str, Any]:
        """The table; a cost that is being measured anew is bridged by the last one, greyed."""
        session = self.session
        if session.bench is None:
            return {"rows": [], "sorted_by_cost": False, "changed": False}
        layers = session.bench.layers
        rows = session.report.layers if session.report is not None else ()
        return layers_view(layers, session.recipe.quantization, *self._remembered(layers, rows, stale=session.stale))

    def _remembered(
        self, layers: Sequence[LayerInfo], rows: Sequence[LayerRow], *, stale: bool
    ) -> tuple[Mapping[str, LayerRow], frozenset[str]]:
        """The latest row of every layer, and the names of those whose cost belongs to this recipe."""
        shapes = {layer.name: layer.shape for layer in layers}
        known = {name: row for name, row in self._rows.items() if row.shape == shapes.get(name)}
        for row in rows:
            before = known.get(row.name)
            quantized = row.weight_bits is not None or row.activation_bits is not None
            keep = row.cost is None and before is not None and quantized
            known[row.name] = row.model_copy(update={"cost": before.cost}) if keep and before else row
        self._rows = known
        fresh = frozenset() if stale else frozenset(row.name for row in rows if row.cost is not None)
        return known, fresh

    def actions(self) -> dict[str, Any]:
        """``set``: bits of the layers in ``names``; ``reset``: drop what was set apart for ``names``."""
        return {"set": self._set, "reset": self._reset}

    def _set(self, message: Message) -> None:
        changes = changes_of({key: value for key, value in message.items() if key != "names"}, FIELDS)
        self.session.set_layers(self._names(message), **changes)

    def _reset(self, message: Message) -> None:
        self.session.clear_layers(self._names(message))

    def _names(self, message: Message) -> list[str]:
        names = message.get("names")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise WorkbenchError(f"names = {names!r:.80}: a list of layer names is needed.")
        return names
