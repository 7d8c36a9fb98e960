"""One row per layer: what it is, its share of the weights, its bits, and what its quantization costs.

Repeated blocks of a large model stand under one row; what is never quantized is listed at the foot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.formatting import between, change_unit, count, figures, fixed, percent_of, points, size, small
from widgets.layer_groups import repeats
from widgets.methods import WORDS
from widgets.part import Message, Part, changes_of, source
from workbench.errors import WorkbenchError
from workbench.layers import follows
from workbench.recipe import Quantization
from workbench.report import Estimate, LayerRow, MetricInfo

if TYPE_CHECKING:
    from widgets.planning import Proposal
    from workbench.layers import LayerInfo
    from workbench.planning.plan import Reason

FIELDS = {"weight_bits": "weights", "activation_bits": "activations"}
"""What can be set, and the field of `LayerInfo` that says why it cannot be."""
UNGROUPED = 12
"""Up to so many layers are read faster than groups are opened."""

Costs = Callable[[Sequence[Estimate], int], dict[str, Any]]


def layers_view(
    layers: Sequence[LayerInfo],
    quantization: Quantization,
    measured: Mapping[str, LayerRow],
    fresh: frozenset[str],
    left_alone: Sequence[Any] = (),
    *,
    cost_head: str = "Costs, points",
    write_cost: Callable[[float], str] = points,
    proposal: Proposal | None = None,
) -> dict[str, Any]:
    """The picture of the layers.

    Args:
        layers: Of the model, in the order of execution.
        quantization: Of the recipe on the screen; the bits that are shown.
        measured: The latest known row of each layer, by name.
        fresh: Names of the rows that belong to the recipe on the screen; the others are drawn greyed.
        left_alone: Modules that are never quantized: ``name``, ``kind`` and ``reason`` of each.
        cost_head: Over the costs, as ``what, unit``.
        write_cost: Writes a cost in that unit, without the unit.
        proposal: Bits that are proposed, drawn beside those of the recipe.
    """
    known = [measured.get(layer.name) or layer for layer in layers]  # a student's layers are smaller than the model's
    total = sum(layer.parameters for layer in known) or 1
    by_name = [layer for layer in layers if getattr(layer, "by_name_only", False)]
    apart = {layer.name for layer in by_name if not follows(layer, quantization.sums)}
    bits = {layer.name: quantization.bits_for(layer.name, common=layer.name not in apart) for layer in layers}
    common = (quantization.weight_bits, quantization.activation_bits)
    groups = repeats({row.name: (row.kind, tuple(row.shape)) for row in known}) if len(layers) > UNGROUPED else {}
    member_of = {name: group for group, names in groups.items() for name in names}
    estimates = {name: row.cost for name, row in measured.items() if row.cost is not None}
    sums: dict[str, float] = {}
    for name, cost in estimates.items():
        at = member_of.get(name, name)
        sums[at] = sums.get(at, 0.0) + cost.value
    costs = _writer(max([*sums.values(), 1e-4]), cost_head.rpartition(", ")[2], write_cost)

    rows: dict[str, dict[str, Any]] = {}
    for layer, info in zip(known, layers, strict=True):
        row = measured.get(layer.name)
        weight_bits, activation_bits = bits[layer.name]
        rows[layer.name] = {
            "name": layer.name,
            "group": member_of.get(layer.name, ""),
            "order": len(rows),
            "what": f"{layer.kind} {'×'.join(map(str, layer.shape))}{_own_grid(quantization, layer.name)}",
            **_weights(layer.parameters, total, row.bytes if row else None),
            "weight_bits": weight_bits,
            "activation_bits": activation_bits,
            "why": {field: why for field in FIELDS if (why := _why(info, field))},
            "own": bits[layer.name] != ((None, None) if layer.name in apart else common),
            "fresh": layer.name in fresh,
            "sqnr": figures(row.sqnr) if row and row.sqnr is not None else "",
            **costs([cost for cost in [estimates.get(layer.name)] if cost], 1),
        }
    if proposal is not None:
        _propose(rows, proposal, apart)
    return {
        "rows": list(rows.values()),
        "groups": [
            _group(name, [rows[each] for each in names], measured, total, costs) for name, names in groups.items()
        ],
        "left_alone": _left_alone(left_alone),
        "cost_head": cost_head,
        "sorted_by_cost": bool(estimates),
        "changed": any(row["own"] for row in rows.values()) or bool(quantization.layers),
        "proposing": proposal is not None,
    }


def _propose(rows: Mapping[str, dict[str, Any]], proposal: Proposal, apart: Set[str]) -> None:
    """Into each row: the bits that are proposed for it, and why it has them."""
    reasons = {reason.layer: reason for reason in proposal.plan.reasons} if proposal.plan is not None else {}
    for name, row in rows.items():
        weights, activations = proposal.recipe.quantization.bits_for(name, common=name not in apart)
        reason = reasons.get(name)
        stands = reason is not None and reason.weight_bits == weights
        row["proposed"] = {"weight_bits": weights, "activation_bits": activations}
        row["reason"] = _because(reason) if reason is not None and stands else ""


def _own_grid(quantization: Quantization, layer: str) -> str:
    """The grid of a layer's weights where it is not that of all layers."""
    scheme = quantization.scheme_for(layer)
    return "" if scheme == quantization.scheme else f" · {WORDS['scheme'][scheme].label}"


def _because(reason: Reason) -> str:
    """Why a layer has its bits, whatever it has now: ``3 % of the expected loss; 59 % at 6 bits, to save 72 B``."""
    text = f"{percent_of(reason.share)} of the expected loss"
    if reason.lower_bits is None:
        return text
    return f"{text}; {percent_of(reason.lower_share)} at {reason.lower_bits} bits, to save {size(reason.saved)}"


def _group(
    name: str, rows: Sequence[dict[str, Any]], measured: Mapping[str, LayerRow], total: int, costs: Costs
) -> dict[str, Any]:
    """What its layers come to; which bits they have in common is seen in their rows."""
    names = [row["name"] for row in rows]
    found = [measured[each] for each in names if each in measured]
    estimates = [row.cost for row in found if row.cost is not None]
    sqnr = [row.sqnr for row in found if row.sqnr is not None]
    return {
        "name": name,
        "names": names,
        "order": rows[0]["order"],
        "what": rows[0]["what"],
        **_weights(
            sum(row["parameters"] for row in rows),
            total,
            sum(row.bytes for row in found) if len(found) == len(rows) else None,
        ),
        "own": any(row["own"] for row in rows),
        "fresh": bool(estimates) and all(row["fresh"] for row in rows if row["cost"] is not None),
        "sqnr": f"≥ {figures(min(sqnr))}" if sqnr else "",
        **costs(estimates, len(rows)),
    }


def _why(layer: Any, field: str) -> str:
    """The reason why bits cannot be set; empty where they can."""
    return getattr(layer, FIELDS[field], "") or ""


def _weights(parameters: int, total: int, in_file: int | None) -> dict[str, Any]:
    share = parameters / total
    return {
        "parameters": parameters,
        "count": count(parameters),
        "share": round(share, 4),
        "share_title": f"{fixed(100 * share, 1)} % of the parameters"
        + ("" if in_file is None else f", {size(in_file)} in the file"),
    }


def _writer(worst: float, unit: str, write: Callable[[float], str]) -> Costs:
    """What draws the costs of a row, given those of its layers that are known and how many layers it has.

    The interval of a sum goes from the sum of the lower ends to that of the upper ends: the layers were
    measured on the same examples, and it holds however they go together.
    """

    def costs(known: Sequence[Estimate], layers: int) -> dict[str, Any]:
        if not known:
            return {"cost": None, "cost_text": "", "cost_share": 0.0, "cost_title": "", "certain": False}
        value, low, high = (sum(getattr(cost, end) for cost in known) for end in ("value", "low", "high"))
        certain = not low <= 0 <= high
        among = f"the {layers}" if len(known) == layers else f"{len(known)} of the {layers}"
        return {
            "cost": round(value, 6),
            "cost_text": write(value),
            "cost_share": round(max(0.0, value) / worst, 4),
            "cost_title": f"{write(value)} {unit} {between(write(low), write(high))} would be won back in fp32"
            + (f", added up over {among} layers" if layers > 1 else "")
            + ("" if certain else "; not distinguishable from nothing"),
            "certain": certain,
        }

    return costs


def _left_alone(modules: Sequence[Any]) -> dict[str, Any]:
    """What is never quantized, in a line and one by one; repeated blocks stand under one name here too."""
    if not modules:
        return {"text": "", "rows": []}
    kinds = Counter(module.kind for module in modules)
    if len(modules) == 1:
        text = f"1 layer is left alone: {modules[0].kind}"
    else:
        text = f"{len(modules)} layers are left alone: " + ", ".join(f"{kind} ({n})" for kind, n in kinds.most_common())
    groups = repeats({module.name: (module.kind, module.reason) for module in modules})
    member_of = {name: group for group, names in groups.items() for name in names}
    by_name = {member_of.get(module.name, module.name): module for module in modules}
    return {
        "text": text,
        "rows": [{"name": name, "why": f"{module.kind}: {module.reason}"} for name, module in by_name.items()],
    }


class LayerTable(Part):
    """The layers of the model; rows are set one by one or several at once."""

    _esm = source("layer_table.js")
    watches: ClassVar[tuple[str, ...]] = ("bench", "recipe", "report", "stale", "proposal")
    _rows: Mapping[str, LayerRow] = {}

    def draw(self) -> dict[str, Any]:
        """The table; a cost that is being measured anew is bridged by the last one, greyed."""
        session = self.session
        if session.bench is None:
            return layers_view((), Quantization(), {}, frozenset())
        layers = session.bench.layers
        rows = session.report.layers if session.report is not None else ()
        measured, fresh = self._remembered(layers, rows, stale=session.stale)
        left_alone = getattr(session.bench, "left_alone", ())
        metric = session.report.metric if session.report is not None else MetricInfo()
        unit = change_unit(metric)
        return layers_view(
            layers,
            session.recipe.quantization,
            measured,
            fresh,
            left_alone,
            cost_head=f"Costs, {unit}" if unit else f"Costs, {metric.name}",
            write_cost=points if metric.share else small,
            proposal=session.proposal,
        )

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
        """``set``: bits of the layers in ``names``, of the proposal's where there is one; ``reset``: drop what was set
        apart for ``names``.
        """
        return {"set": self._set, "reset": self._reset}

    def _set(self, message: Message) -> None:
        """Sets what can be set; a layer that must stay as it is does not keep the others from it."""
        changes = changes_of({key: value for key, value in message.items() if key != "names"}, tuple(FIELDS))
        names = self._names(message)
        layers = {layer.name: layer for layer in self.session.bench.layers}
        why = {name: next((_why(layers.get(name), field) for field in changes), "") for name in names}
        able = [name for name in names if not why[name]]
        if not able:
            raise WorkbenchError(f"{names[0]} stays in fp32: {why[names[0]]}.")
        if self.session.proposal is not None:
            self.session.edit_proposal(able, **changes)
        else:
            self.session.set_layers(able, **changes)

    def _reset(self, message: Message) -> None:
        self.session.clear_layers(self._names(message))

    def _names(self, message: Message) -> list[str]:
        names = message.get("names")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise WorkbenchError(f"names = {names!r:.80}: a list of layer names is needed.")
        return names
