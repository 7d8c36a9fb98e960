"""Counting MACs and bytes in one run: a dispatch mode over `torch.utils.flop_counter`'s formulas and our own.

`FlopCounterMode` itself tells FLOPs alone, and says nothing of the operators that it does not know. What it knows
comes from its registry; what it misses, from `workbench.hardware.formulas`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.hardware.counts import Count, Counts, OperatorClass
from workbench.hardware.living import Living
from workbench.hardware.operators import (
    ON_THE_WAY,
    class_of,
    is_view,
    known,
    macs,
    name_of,
    reads,
    spoken,
    tensors_in,
    traffic,
)
from workbench.inputs import Inputs
from workbench.passes import run_once


@torch.no_grad()
def counted(model: nn.Module, example: Inputs, names: Mapping[str, str] | None = None) -> Counts:
    """Run a model once and count.

    Args:
        model: In evaluation mode; left as it is.
        example: One example, as a batch of one.
        names: What a layer is called, by its weight's name in the state; the module's name by default.

    Returns:
        Counts for that example.
    """
    counter = _Counter(model, names or {})
    with counter:
        run_once(model, example, counter.hooks(model))
    return Counts(
        rows=tuple(counter.rows.values()),
        state=_state(model),
        inputs=sum(tensor.numel() for tensor in example.tensors),
        outputs=counter.outputs,
        peak_activation=counter.living.peak(),
        uncounted=counter.uncounted,
    )


class _Counter(TorchDispatchMode):
    def __init__(self, model: nn.Module, names: Mapping[str, str]) -> None:
        super().__init__()
        self.rows: dict[tuple[Any, ...], Count] = {}
        self.uncounted: dict[str, int] = {}
        self.living = Living()
        self.outputs = 0
        self._names = names
        self._inside: list[str] = []
        self._recurrent: set[str] = set()
        self._thread = threading.get_ident()
        self._parameters = {
            tensor.untyped_storage().data_ptr(): name
            for name, tensor in (*model.named_buffers(), *model.named_parameters())
            if tensor.numel()
        }
        self._products: set[int] = set()
        """Storages that hold a product's result to which nothing else was done yet."""

    def hooks(self, model: nn.Module) -> list[Any]:
        """On every module, so that it is known who calls an operator; another thread's calls do not count."""

        def enter(name: str) -> None:
            if threading.get_ident() == self._thread:
                self._inside.append(name)

        def leave(_: nn.Module, __: object, output: Any) -> None:
            if threading.get_ident() == self._thread:
                self._inside.pop()
                self.outputs = sum(tensor.numel() for tensor in tensors_in(output))  # the model's own comes last

        found: list[Any] = []
        for name, module in model.named_modules():
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                self._recurrent.add(name)
            found.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
            found.append(module.register_forward_hook(leave))
        return found

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and the wrapper that keeps torch.compile out takes seconds to import."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not known(func) and func._can_decompose():
            with self:
                parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
        before = tensors_in((args, kwargs))
        out = func(*args, **kwargs)
        if self._inside:  # what happens before and after is not the model's
            self._count(func, args, kwargs, before, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any], before: list[Tensor], out: Any) -> None:
        after = tensors_in(out)
        given = {address(tensor): tensor for tensor in before if tensor.numel()}
        self.living.step(given.keys() - self._parameters.keys(), after, set(given))
        if is_view(func, set(given), after):
            return
        products = macs(func, args, kwargs, out)
        if products is None and not traffic(func):
            self.uncounted[name_of(func)] = self.uncounted.get(name_of(func), 0) + 1
        made = {address(tensor) for tensor in after if tensor.numel()}
        if name_of(func) in ON_THE_WAY and given and next(iter(given)) in self._products:
            self._products |= made  # the next one may follow in the same kernel
            return
        if products:
            self._products |= made
        else:
            self._products -= made
        if not products and (self._inside[-1] in self._recurrent or all(map(self._parameter, before))):
            return  # a step's gates belong to its kernel; a constant is made once, not at every call
        self._add(func, args, products, before, after[0].numel() if after else 0)

    def _add(self, func: Any, args: Any, products: int | None, read: list[Tensor], outputs: int) -> None:
        weights: dict[str, int] = {}
        inputs = 0
        for tensor in read:
            name = self._parameter(tensor)
            if name is None:
                inputs += tensor.numel()
            else:  # of a table, as many elements are read as come out
                weights[name] = outputs if "embedding" in name_of(func) else tensor.numel() * reads(func, args, tensor)
        kind, channels = class_of(func, args, products)
        if products and self._inside[-1] in self._recurrent:
            kind = OperatorClass.RECURRENT
        name = self._name(weights) or f"{self._inside[-1]}.{spoken(name_of(func))}".strip(".")
        row = Count(name, name_of(func), kind, products or 0, tuple(weights.items()), inputs, outputs, 1, channels)
        key = (row.name, row.operator, kind, channels, tuple(weights))
        self.rows[key] = self.rows[key].plus(row) if key in self.rows else row

    def _parameter(self, tensor: Tensor) -> str | None:
        return self._parameters.get(address(tensor)) if tensor.numel() else None

    def _name(self, weights: Mapping[str, int]) -> str:
        """Of the layer; of the module, where a layer is only a part of it or the module itself has the weights."""
        layers = {self._names[name] for name in weights if name in self._names}
        if len(layers) == 1:
            return layers.pop()
        module = self._inside[-1]
        if not weights or (module and any(name.rpartition(".")[0] == module for name in weights)):
            return module if weights else ""
        return max(weights, key=lambda name: weights[name]).removesuffix(".weight")


def address(tensor: Tensor) -> int:
    """Of the storage, which views share; 0 where a tensor has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, packed
        return 0


def _state(model: nn.Module) -> dict[str, int]:
    seen: dict[int, str] = {}
    state: dict[str, int] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.numel() and seen.setdefault(address(tensor), name) == name:
            state[name] = tensor.numel()
    return state
