"""Why each layer of a plan has its bits, and what a little more of a budget would buy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from workbench.planning.plan import Exchange, Reason, amount, kilobytes
from workbench.planning.programme import least_cost
from workbench.planning.space import Options, Space
from workbench.report import MetricInfo

Drops = Callable[[Sequence[Options]], tuple[NDArray[np.float64], NDArray[np.float64]]]

MORE_BYTES = 1000.0
MORE_OF_A_FILE = 0.01
"""Share of the layers' bytes that is looked at instead where it is more: 1 kB buys no bit of a layer of millions."""
MORE_DROP = 0.001
"""A tenth of a point, where the metric is a share."""
MORE_SHARE = 0.1
"""Of the plan's own drop, where it is not."""


def reasons(
    space: Space, options: Options, costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]]
) -> tuple[Reason, ...]:
    """One for each layer.

    Args:
        space: The mixes.
        options: The mix.
        costs: What each option of each layer adds to the drop.
        sizes: What each option of each layer weighs, bytes.
    """
    chosen = [own[at] for own, at in zip(costs, options, strict=True)]
    total = sum(chosen)
    made = []
    rows = zip(space.layers, space.options, options, costs, sizes, strict=True)
    for layer, (name, own, at, cost, size) in enumerate(rows):
        weight, activation = own[at]
        share = cost[at] / total if total > 0 else 0.0
        bits = weight.bits if weight else None
        open_ = weight is not None and len(space.schemes) > 1
        here = f"{bits} ({weight.scheme})" if weight is not None and open_ else f"{bits}"
        reason = Reason(
            layer=name,
            weight_bits=bits,
            activation_bits=activation.bits if activation else None,
            share=share,
            scheme=weight.scheme if weight is not None and open_ else None,
            text=f"{name}: {share:.0%} of the expected drop",
        )
        lower = space.lower(layer, at)
        following = own[lower].weight if lower is not None else None
        if lower is not None and following is not None:
            without = total - cost[at]
            then = cost[lower] / (without + cost[lower]) if without + cost[lower] > 0 else 0.0
            saved = size[at] - size[lower]
            text = (
                f"{name} stays at {here}: {then:.0%} of the expected drop at {following.bits}, "
                f"which would save {kilobytes(saved)}"
            )
            reason = reason.model_copy(
                update={"lower_bits": following.bits, "lower_share": then, "saved": float(saved), "text": text}
            )
        elif len(own) > 1 and bits is not None:
            gained = max(size) - size[at]
            text = f"{name} goes down to {here}: that saves {kilobytes(gained)} and is {share:.0%} of the expected drop"
            reason = reason.model_copy(update={"text": text})
        made.append(reason)
    return tuple(made)


def exchanges(
    space: Space,
    options: Options,
    costs: Sequence[Sequence[float]],
    sizes: Sequence[Sequence[int]],
    metric: MetricInfo,
    drops: Drops,
) -> tuple[Exchange, ...]:
    """What one more kB (of a large model: one more hundredth) and a tenth of a point would buy, if anything.

    What a step in the additive costs may cost in fact is predicted, and that is what is said.

    Args:
        space: The mixes.
        options: The mix.
        costs: What each option of each layer adds to the drop.
        sizes: What each option of each layer weighs, bytes.
        metric: What drops are of.
        drops: Predicts mixes.
    """
    weights = [list(map(float, own)) for own in sizes]
    size = sum(own[at] for own, at in zip(weights, options, strict=True))
    cost = sum(own[at] for own, at in zip(costs, options, strict=True))
    own_drop = float(drops([options])[0][0])
    step = MORE_DROP if metric.share else MORE_SHARE * max(abs(own_drop), cost)
    made = []
    room = max(MORE_BYTES, MORE_OF_A_FILE * size)
    larger = least_cost(costs, weights, size + room)
    if larger is not None and larger.options != options and larger.cost < cost:
        won = float(drops([larger.options])[0][0]) - own_drop
        if won < 0:
            more, steps = larger.weight - size, _steps(space, options, larger.options)
            text = f"Of {kilobytes(room)} more, {kilobytes(more)} would win back {amount(-won, metric)}: {steps}."
            made.append(Exchange(bytes=more, drop=won, recipe=space.recipe(larger.options), text=text))
    smaller = least_cost(weights, costs, cost + step)
    if smaller is not None and smaller.cost < size:
        saved = size - smaller.cost
        lost = float(drops([smaller.options])[0][0]) - own_drop
        steps = _steps(space, options, smaller.options)
        if lost > 0:
            text = f"{amount(lost, metric)} more to lose would save {kilobytes(saved)}: {steps}."
        else:
            text = f"{kilobytes(saved)} could be saved, and nothing more would be lost: {steps}."
        made.append(Exchange(bytes=-saved, drop=lost, recipe=space.recipe(smaller.options), text=text))
    return tuple(made)


def _steps(space: Space, before: Options, after: Options) -> str:
    """``fc1 from 4 to 3 bits``, of the first few layers that change."""
    said = []
    for name, own, old, new in zip(space.layers, space.options, before, after, strict=True):
        (first, second) = own[old].weight, own[new].weight
        if old != new and first is not None and second is not None:
            grids = ("", "") if first.scheme == second.scheme else (f" ({first.scheme})", f" ({second.scheme})")
            said.append(f"{name} from {first.bits}{grids[0]} to {second.bits} bits{grids[1]}")
    return ", ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "")
