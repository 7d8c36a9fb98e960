"""Copies of modules that share every tensor with the original but those that are replaced."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn


def substituted(module: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """The same layer with other parameters; the given module is not touched and the rest is shared."""
    twin = copy.copy(module)
    replaced = {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in parameters.items()}
    twin._parameters = {**module._parameters, **replaced}
    return twin


def twin(model: nn.Module) -> nn.Module:
    """The same tree of modules, its tensors shared: submodules can be exchanged without touching the original."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def twin_with(model: nn.Module, replaced: Mapping[str, Mapping[str, Tensor]]) -> nn.Module:
    """A twin with other parameters in some layers.

    Args:
        model: Left as it is.
        replaced: Parameters by layer name.
    """
    made = twin(model)
    for name, parameters in replaced.items():
        made.set_submodule(name, substituted(made.get_submodule(name), parameters))
    return made
