"""Runs both, what is deployed and what is simulated, over a task's examples, batch by batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.errors import Cancelled, WorkbenchError
from workbench.evaluation import Evaluation, Outcomes
from workbench.exporting.agreement import LISTED, Agreement, compared, likeness
from workbench.inputs import Inputs
from workbench.metrics import Metric
from workbench.network import Network
from workbench.outputs import selected
from workbench.quantization.quantizer import LayerSpec
from workbench.recipe import Recipe

SECONDS_BETWEEN = 0.08

Run = Callable[[Inputs], Tensor]
"""Outputs of what is deployed for a batch, shape (k, ...)."""


def simulated(network: Network, asked: Mapping[str, LayerSpec], batch: Inputs) -> Tensor:
    """Outputs of the simulation for a batch.

    Args:
        network: What runs.
        asked: How its layers are quantized.
        batch: Examples of one shape.
    """
    return selected(network.simulation.run(batch.channels_last(), asked), network.output)


class Comparison:
    """What is deployed beside what is simulated, over the examples of an evaluation in its order."""

    def __init__(
        self,
        evaluation: Evaluation,
        network: Network,
        asked: Mapping[str, LayerSpec],
        recipe: Recipe,
        run: Run,
        runtime: str,
        note: str | None = None,
    ) -> None:
        """
        Args:
            evaluation: Whose examples.
            network: What is simulated.
            asked: How its layers are quantized.
            recipe: That says so.
            run: What is deployed.
            runtime: What it is called.
            note: What really runs, where that is not what the bits suggest.
        """
        self._evaluation = evaluation
        self._network = network
        self._asked = asked
        self._run = run
        self._fixed: dict[str, Any] = {"recipe": recipe, "runtime": runtime, "note": note}
        self._metric: Metric | None = None
        self._statistics: list[Tensor] = []
        self._apart: list[Tensor] = []
        self._largest = self._span = 0.0

    def stream(
        self, cancel: threading.Event | None = None, seconds: float | None = None, least: int = 0
    ) -> Iterator[Agreement]:
        """Agreements that grow with the examples seen, the first after one batch.

        Args:
            cancel: Checked before every batch.
            seconds: No further batch after them; by default all examples are compared.
            least: As many always are.

        Raises:
            Cancelled: `cancel` was set.
            WorkbenchError: What is deployed returns another shape than what is simulated.
        """
        started = spoken = time.perf_counter()
        total = len(self._evaluation.order)
        seen = 0
        for index, part in enumerate(self._evaluation.parts):
            if cancel is not None and cancel.is_set():
                raise Cancelled
            self._compare(index, part)
            seen, now = seen + len(part), time.perf_counter()
            if seen == total or (seconds is not None and seen >= least and now - started > seconds):
                break
            if not index or now - spoken >= SECONDS_BETWEEN:
                spoken = now
                yield self._agreement(total)
        yield self._agreement(seen)

    def _compare(self, index: int, part: Tensor) -> None:
        batch = self._evaluation.task.inputs[part]
        ours = self._evaluation.outputs(self._network, self._asked, index)
        # for a last, smaller batch a compiler would begin anew
        whole = len(self._evaluation.parts[0])
        theirs = self._run(batch.padded(whole) if batch.uniform else batch)[: len(part)]
        if theirs.shape != ours.shape:
            raise WorkbenchError(
                f"{self._fixed['runtime']} returned shape {tuple(theirs.shape)} where the simulation returns "
                f"{tuple(ours.shape)}."
            )
        metrics = self._evaluation.task.metrics_for(ours)
        theirs = theirs.to(ours.dtype)
        found, apart = compared(metrics, theirs, ours)
        self._metric = likeness(metrics, ours)
        self._statistics.append(found)
        self._apart.append(part[apart])
        self._largest = max(self._largest, float((theirs - ours).abs().max()))
        self._span = max(self._span, float(ours.abs().max()))

    def _agreement(self, total: int) -> Agreement:
        assert self._metric is not None  # noqa: S101 - one batch was compared
        found = torch.cat(self._statistics)
        outcomes = Outcomes((self._metric,), (found,), self._evaluation.resampling, self._evaluation.order)
        apart = torch.cat(self._apart).tolist()
        return Agreement(
            **self._fixed,
            metric=self._metric.info,
            rate=outcomes.accuracy().model_copy(update={"source": "measured"}),
            examples=len(found),
            total=total,
            disagreements=len(apart),
            differing=tuple(apart[:LISTED]),
            largest=self._largest,
            span=self._span,
        )
