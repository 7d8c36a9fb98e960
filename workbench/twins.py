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
    if isinstance(module, nn.RNNBase):  # it reads its weights from a list of its own
        weights = [twin._parameters.get(name) for name in module._flat_weights_names]
        twin.__dict__.update(_flat_weights=weights, _flat_weight_refs=[None] * len(weights))
    return twin


def exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, under each of the names that it has in the model."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def twin(model: nn.Module) -> nn.Module:
    """The same tree of modules, its tensors shared: submodules can be exchanged without touching the original."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def twin_with(model: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A twin with other parameters.

    Args:
        model: Left as it is.
        parameters: By their names in the model's state; where one is tied, all its places change.
    """
    own = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    replaced = {id(own[name]): tensor for name, tensor in parameters.items()}
    made = twin(model)
    for module in list(made.modules()):
        tensors = {**module._buffers, **module._parameters}
        changed = {n: replaced[id(tensor)] for n, tensor in tensors.items() if id(tensor) in replaced}
        if changed:
            other = substituted(module, changed)
            if module is made:
                made = other
            else:
                exchange(made, module, other)
    return made
