"""Finds the examples that flip, and restores one layer after the other to see which flips it undoes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from workbench.comparisons import COST_OPERATIONS, fp32, quantized
from workbench.errors import Cancelled
from workbench.evaluation import Evaluation, Outcomes
from workbench.explaining.answers import answers, strengths, targets_in_words
from workbench.explaining.flips import Answer, Flip, FlipList
from workbench.network import Network
from workbench.outputs import selected
from workbench.quantization.quantizer import LayerSpec, specs
from workbench.recipe import Recipe
from workbench.task import Task

LEAST_FLIPS = 12
"""Of either kind; up to so many are listed of any network."""
HALF = 0.5
"""Share of a change of score that a layer has to take back to be named."""


class _Told(NamedTuple):
    """What a network makes of some examples."""

    scores: Tensor
    """Shape (k,), larger is better."""
    strengths: Tensor
    """Shape (k,): how far each example is on the right side."""
    answers: list[Answer]


def flipped(
    evaluation: Evaluation,
    network: Network,
    reference: Network,
    recipe: Recipe,
    limit: int,
    cancel: threading.Event | None,
) -> Iterator[FlipList]:
    """Lists that grow: the flips with both answers, then with the layers that undo them.

    Args:
        evaluation: The examples.
        network: What the recipe quantizes.
        reference: The model in fp32, against which an example flips.
        recipe: What is looked at.
        limit: Examples of either kind that are listed at most; of a large network fewer are.
        cancel: Checked before every batch.

    Raises:
        Cancelled: `cancel` was set.
    """
    asked = specs(recipe.quantization, network.layers)
    ours = evaluation.all(network, asked, reference, cancel)
    theirs = evaluation.all(reference, fp32(reference), reference, cancel)
    change = _change(ours, theirs)
    counted = ours.metrics[0].info.counted
    found = FlipList(
        recipe=recipe,
        metric=ours.metrics[0].info,
        lost_total=int((change < 0).sum()),
        gained_total=int((change > 0).sum()),
        examples=len(ours),
        total=1 + len(quantized(asked)),
    )
    runs = 2 * max(1, len(quantized(asked))) * max(network.operations, 1)
    limit = min(limit, max(LEAST_FLIPS, int(COST_OPERATIONS // runs)))
    places = torch.cat([_most(change, limit, counted), _most(-change, limit, counted)])
    some = _Some(evaluation.task, reference, evaluation.order[places], ours, cancel)
    before = some.told(reference, fp32(reference))
    now = some.told(network, asked)
    words = targets_in_words(evaluation.task, evaluation.order[places])
    kinds: list[Literal["lost", "gained"]] = ["lost" if change[place] < 0 else "gained" for place in places.tolist()]
    flips = [
        Flip(index=index, kind=kind, target=word, fp32=a, now=b)
        for index, kind, word, a, b in zip(
            evaluation.order[places].tolist(), kinds, words, before.answers, now.answers, strict=True
        )
    ]
    sure = [
        (a.margin if kind == "lost" else b.margin) if counted else abs(float(c))
        for kind, a, b, c in zip(kinds, before.answers, now.answers, change[places], strict=True)
    ]
    order = sorted(range(len(flips)), key=lambda at: -(sure[at] or 0.0))
    effects: list[dict[str, float]] = [{} for _ in flips]
    found = found.model_copy(update={"done": 1})
    yield _filled(found, flips, effects, order)
    for name in reversed(quantized(asked)) if flips else ():  # the last first: what comes before is remembered
        then = some.told(network, {**asked, name: LayerSpec(None, None)})
        for at, kind in enumerate(kinds):
            if _undone(kind, float(before.scores[at]), float(now.scores[at]), float(then.scores[at]), counted=counted):
                effects[at][name] = abs(float(then.strengths[at] - now.strengths[at]))
        found = found.model_copy(update={"done": found.done + 1, "layers": (name, *found.layers)})
        yield _filled(found, flips, effects, order)
    if not flips:
        yield found.model_copy(update={"done": found.total})


def _change(ours: Outcomes, theirs: Outcomes) -> Tensor:
    """By how much each example's score rose, in the order of evaluation; below 0 where it fell."""
    now, before = (o.metrics[0].scores(o.statistics[0]).double() for o in (ours, theirs))
    return now - before


def _most(change: Tensor, limit: int, counted: bool) -> Tensor:
    """Places of what fell: the first ones where a fall is a fall, else the deepest."""
    fallen = (change < 0).nonzero()[:, 0]
    if not counted:
        fallen = fallen[change[fallen].argsort(stable=True)]
    return fallen[:limit]


def _undone(kind: str, before: float, now: float, then: float, *, counted: bool) -> bool:
    if counted:
        return then >= before if kind == "lost" else then <= before
    back = (then - now) / (before - now) if before != now else 0.0
    return back >= HALF


def _filled(found: FlipList, flips: list[Flip], effects: list[dict[str, float]], order: list[int]) -> FlipList:
    made = [
        flips[at].model_copy(update={"undone_by": tuple(sorted(effects[at], key=lambda name: -effects[at][name]))})
        for at in order
    ]
    return found.model_copy(
        update={kind: tuple(flip for flip in made if flip.kind == kind) for kind in ("lost", "gained")}
    )


class _Some:
    """Some examples of a task, run through networks in the same batches each time."""

    def __init__(
        self, task: Task, reference: Network, indices: Tensor, outcomes: Outcomes, cancel: threading.Event | None
    ) -> None:
        self._task, self._reference, self._cancel = task, reference, cancel
        self._metric = outcomes.metrics[0]
        self._indices = indices
        places = {index: place for place, index in enumerate(indices.tolist())}
        parts = task.inputs.batches(indices, reference.batch) if len(indices) else []
        self._places = [torch.tensor([places[index] for index in part.tolist()]) for part in parts]
        self._batches = [task.inputs[part].channels_last() for part in parts]
        own = task.targets
        self._targets = [
            own[part] if own is not None else reference.call(batch)
            for part, batch in zip(parts, self._batches, strict=True)
        ]
        self._key = ("flips", *indices.tolist())

    @torch.inference_mode()
    def told(self, network: Network, asked: Mapping[str, LayerSpec]) -> _Told:
        """Scores and answers, in the order of the indices.

        Raises:
            Cancelled: The run was cancelled.
        """
        n = len(self._indices)
        scores, strong = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        said: list[Answer | None] = [None] * n
        for number, (place, batch, wanted) in enumerate(zip(self._places, self._batches, self._targets, strict=True)):
            if self._cancel is not None and self._cancel.is_set():
                raise Cancelled
            key = (*self._key, number)
            outputs = selected(network.simulation.run(batch, asked, key), self._task.output)
            found = self._metric.scores(self._metric.statistics(outputs, wanted)).double()
            scores[place], strong[place] = found, strengths(self._metric, outputs, wanted, found)
            for at, answer in zip(place.tolist(), answers(self._task, self._metric, outputs, found), strict=True):
                said[at] = answer
        return _Told(scores, strong, [answer for answer in said if answer is not None])
