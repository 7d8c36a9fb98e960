"""What all forms of students share: a smaller network, what became of each layer, and the runs that tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from workbench.distillation.ties import names_its_layers
from workbench.errors import WorkbenchError
from workbench.tracing import running


class Reduced(NamedTuple):
    """A network that was made from a model."""

    module: nn.Module
    changed: tuple[str, ...]
    """Layers or blocks of the model that became smaller."""
    kept: Mapping[str, str]
    """Layers that stay as they are, with the reason."""
    fresh: tuple[str, ...] = ()
    """Layers that were to begin with the model's values and could not."""


class Run(NamedTuple):
    """What one run of a model tells."""

    called: frozenset[str]
    """Modules that were called."""
    output: tuple[int, ...]
    """Shape of what the model returned."""


def parameters(model: nn.Module) -> int:
    """Weights and biases, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and convolutions by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | _ConvNd)}


@torch.no_grad()
def run(model: nn.Module, example: Tensor, what: str = "cannot run on the example") -> Run:
    """Run a model on a batch.

    Args:
        model: In evaluation mode.
        example: Left as it is.
        what: Said of the model where it fails.

    Raises:
        WorkbenchError: It fails, or does not return a tensor; the layer concerned is named.
    """
    called: set[str] = set()
    if not example.is_floating_point():
        raise WorkbenchError(
            f"The model's inputs are {example.dtype}; only models of floating-point inputs get students."
        )
    with noting(model, lambda name, *_: called.add(name)), names_its_layers(model, what), running():
        output = model(example.detach().clone())
    if not isinstance(output, Tensor):
        raise WorkbenchError(
            f"{type(model).__name__} returns a {type(output).__name__}; a student needs logits, one tensor."
        )
    return Run(frozenset(called), tuple(output.shape))


@contextmanager
def noting(model: nn.Module, note: Any) -> Iterator[None]:
    """While entered, `note(name, args, output)` is called after each module's call."""
    hooks = [
        module.register_forward_hook(lambda _, args, output, name=name: note(name, args, output) and None)
        for name, module in model.named_modules()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def finished(reduced: Reduced, example: Tensor, output: tuple[int, ...], training: bool) -> Reduced:
    """The student, once it is known to run; all that it has can learn.

    Args:
        reduced: What was made.
        example: A batch of inputs.
        output: Shape of what the model returned for it.
        training: Which mode the student is left in.

    Raises:
        WorkbenchError: It does not run, or returns another shape than the model.
    """
    student = reduced.module
    made = run(student, example, "no longer runs when it is reduced").output
    try:
        with torch.inference_mode(), running():  # modules may go another way where no hook watches them
            student(example.detach().clone())
    except Exception as error:  # whatever the model's own code raises
        raise WorkbenchError(f"{type(student).__name__} no longer runs when it is reduced: {error}") from error
    if made != output:
        raise WorkbenchError(f"The reduced {type(student).__name__} returns {made}, the model {output}.")
    for parameter in student.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    student.train(training)
    return reduced
