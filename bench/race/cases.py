"""The networks that are run, with the inputs that everybody is given."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from networks import IMAGE, mobilenet_v2, resnet18, settled
from peers.graphs import Arrays, GraphJob
from torch import nn

import workbench as wb
from workbench.bench import Bench
from workbench.inputs import Inputs
from workbench.store import Store

IMAGES = 32
"""Random ones, for networks with random weights."""


def random_images() -> wb.Task:
    images = torch.randn(2 * IMAGES, *IMAGE, generator=torch.Generator().manual_seed(1))
    return wb.Task.fidelity(images[:IMAGES], calibration=images[IMAGES:])


@dataclass(frozen=True)
class Network:
    """Where a network and its inputs come from."""

    model: Callable[[], nn.Module]
    task: Callable[[], wb.Task]
    transformer: bool = False


def of_the_zoo(name: str, *, transformer: bool = False) -> Network:
    return Network(lambda: wb.zoo.model(name), lambda: wb.zoo.task(name), transformer)


NETWORKS = {
    "seed-cnn": of_the_zoo("seed-cnn"),
    "efficientnet-lite0": of_the_zoo("efficientnet-lite0"),
    "minilm-l6": of_the_zoo("minilm-l6", transformer=True),
    "resnet-18": Network(lambda: settled(resnet18), random_images),
    "mobilenet-v2": Network(lambda: settled(mobilenet_v2), random_images),
}


@dataclass(frozen=True)
class Case:
    """A network in fp32, exported, with a folder for what is made of it."""

    name: str
    folder: Path
    _made: dict[str, float] = field(default_factory=dict)

    @cached_property
    def bench(self) -> Bench:
        """One for all that is timed."""
        return self.fresh()

    def fresh(self) -> Bench:
        """A bench that has looked at nothing, with its graph exported."""
        model, task = self._source
        bench = Bench(model, task, store=Store(self.folder), name=self.name)
        started = time.perf_counter()
        graph = bench._network.graph
        self._made.setdefault("export", time.perf_counter() - started)
        self.exported.write_bytes(graph.fp32())
        return bench

    @property
    def export_seconds(self) -> float:
        """Of the first time; short where an earlier run had left the graph."""
        _ = self.bench
        return self._made["export"]

    @property
    def exported(self) -> Path:
        """The fp32 graph's file."""
        return self.folder / "fp32.onnx"

    @cached_property
    def job(self) -> GraphJob:
        """What a peer is given: the calibration inputs that ours looks at, in the same batches."""
        network = self.bench._network
        seen = network._seen
        batches = seen.batches(torch.arange(len(seen)), network.batch)
        given = [self.arrays(seen[index]) for index in batches]
        return GraphJob(self.exported, given, self.folder, NETWORKS[self.name].transformer)

    def batch(self, size: int) -> Inputs:
        """Calibration inputs, as many as a call takes."""
        return self.bench.task.calibration.cycled(size)

    def arrays(self, batch: Inputs) -> Arrays:
        """A batch by the names of the graph's inputs."""
        names = self.bench._network.graph.inputs
        pairs = zip(names, batch.tensors, strict=True)
        return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in pairs if name}

    @cached_property
    def _source(self) -> tuple[nn.Module, wb.Task]:
        network = NETWORKS[self.name]
        return network.model(), network.task()
