"""Refusing what is too large before it is made: a small file can declare any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from workbench.loading.onnx_values import Untranslatable


class BoundedSizes(TorchDispatchMode):
    """While it is on, every torch function is asked on the meta device first how large its result is."""

    def __init__(self, largest: int) -> None:
        """
        Args:
            largest: Bytes that one tensor may take.
        """
        super().__init__()
        self._largest = largest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            meta = func(*tree_map(_on_meta, args), **{**tree_map(_on_meta, kwargs), **_device(kwargs)})
        except (RuntimeError, TypeError, NotImplementedError):
            meta = ()  # it depends on the data, and has no size beforehand
        for leaf in tree_leaves(meta):
            if isinstance(leaf, Tensor) and leaf.numel() * leaf.element_size() > self._largest:
                raise Untranslatable(f"A value of the shape {list(leaf.shape)} is too large to compute here.")
        return func(*args, **kwargs)


def _on_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def _device(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {"device": "meta"} if "device" in kwargs else {}
