"""QDQ operators in a torch module, in the forms that inductor replaces by oneDNN's integer kernels.

Its passes (`torch._inductor.fx_passes.quantization`, those of PT2E's x86 backend) look for a convolution or a matrix
product between `dequantize_per_tensor` and `dequantize_per_channel`. With a recipe's own scales and whole numbers in
these, what runs is what is simulated; a part that no pass knows runs the same operators in floating point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.grid import Grid, QuantizedLayer
from workbench.inputs import Inputs
from workbench.recipe import Deployment

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Exactly these: of a transposed convolution the passes would make a plain one."""
COUNTED = ("qconv_weight_prepack_matcher_count", "qlinear_weight_prepack_matcher_count")
"""Inductor's own counts of products that became integer kernels."""


def no_integers(deployment: Deployment) -> str | None:
    """Why no integer kernels are written for a deployment, in words; None where they are."""
    if deployment.device != "cpu":
        return f"they are written for the processor, not for {deployment.device}"
    if deployment.precision != "fp32":
        return f"they are written beside fp32, not {deployment.precision}"
    if not torch.backends.mkldnn.is_available() or not torch.cpu._is_vnni_supported():
        return "this processor has no VNNI, without which their sums can overflow"
    return None


class Qdq:
    """A module whose layers compute with a recipe's whole numbers, as operators that are still to be compiled."""

    def __init__(
        self, model: nn.Module, module: nn.Module, layers: Mapping[str, QuantizedLayer], batch: Inputs
    ) -> None:
        """
        Args:
            model: In fp32; read only.
            module: A copy of it, with the rounded weights in it; the forwards of its layers are exchanged.
            layers: On their grids.
            batch: Tells how often each of them is called.
        """
        import torch.ao.quantization.fx._decomposed

        forwards: dict[str, list[_Before | _Product]] = {}
        taken: set[str] = set()
        for layer in layers.values():
            if layer.activation_grid is None:
                continue
            forwards[layer.name] = []
            for site in _sites(model, layer):
                if site in taken:
                    continue
                taken.add(site)
                own = module.get_submodule(site)
                whole = layer.centred if _multiplies(own) else None
                made = _Before(own, layer.activation_grid) if whole is None else _Product(own, layer, whole)
                own.__dict__["forward"] = made
                forwards[layer.name].append(made)
        with torch.no_grad():
            batch.call(module)
        self.unrounded = [name for name, own in forwards.items() if not any(each.calls for each in own)]
        """Layers whose input is asked for on a grid and stays in floating point: no module's call reaches it."""
        self._products = {n: [each for each in own if isinstance(each, _Product)] for n, own in forwards.items()}
        for product in (product for own in self._products.values() for product in own):
            product.calls = 0

    def integer(self, replaced: int) -> int:
        """How many layers run in integer kernels, at the least.

        Args:
            replaced: Products that the compiler replaced; each that is missing may be another layer's.
        """
        called = {name: sum(product.calls for product in own) for name, own in self._products.items()}
        return max(0, sum(map(bool, called.values())) - max(0, sum(called.values()) - replaced))


def replaced_so_far() -> int:
    """Products that inductor replaced by integer kernels in this process."""
    from torch._dynamo.utils import counters

    return sum(counters["inductor"][name] for name in COUNTED)


class _Before:
    """A forward that rounds its first argument."""

    def __init__(self, module: nn.Module, grid: Grid) -> None:
        self._forward, self._grid = module.forward, grid
        self.calls = 0

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self._forward(_rounded(x, self._grid), *args, **kwargs)


class _Product:
    """The forward of a layer with whole numbers as its weights."""

    def __init__(self, module: nn.Module, layer: QuantizedLayer, whole: Tensor) -> None:
        """
        Args:
            module: The layer; it gets more buffers.
            layer: On grids.
            whole: int8, the weight's whole numbers less the zero point.
        """
        assert isinstance(layer.weight_grid, Grid) and layer.activation_grid is not None  # noqa: S101
        self._line = isinstance(module, nn.Conv1d)
        whole = whole[:, :, None] if self._line else whole
        channels = len(whole)
        scale = layer.weight_grid.scale.expand(channels)  # the passes know one scale a channel
        module.register_buffer("qdq_whole", whole)
        module.register_buffer("qdq_zero", torch.zeros(channels, dtype=torch.int64))
        self._module, self._grid, self._scale = module, layer.activation_grid, scale
        self.calls = 0

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """Of the input, shape (n, ..., features) or (n, channels, ...)."""
        (x,) = (*args, *kwargs.values())
        module, scale = self._module, f"qdq_scale_{self.calls}"
        self.calls += 1
        if not hasattr(module, scale):  # one for each call: the passes leave a weight alone that two products share
            module.register_buffer(scale, self._scale.clone())
        # inductor takes the shape of a one-dimensional integer convolution wrongly, so it is one of height 1
        x = _rounded(x[..., None, :] if self._line else x, self._grid)
        weight = torch.ops.quantized_decomposed.dequantize_per_channel(
            module.qdq_whole, getattr(module, scale), module.qdq_zero, 0, -128, 127, torch.int8
        )
        if isinstance(module, nn.Linear):
            return F.linear(x, weight, module.bias)
        if self._line:
            return _of_height_1(module, x, weight)
        made: Tensor = module._conv_forward(x, weight, module.bias)  # type: ignore[operator]  # it pads, as it is set
        return made


def _of_height_1(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """A one-dimensional convolution of planes of height 1."""
    stride, padding, dilation = (1, *module.stride), (0, *module.padding), (1, *module.dilation)
    return F.conv2d(x, weight, module.bias, stride, padding, dilation, module.groups)[..., 0, :]


def _rounded(x: Tensor, grid: Grid) -> Tensor:
    """A value moved to its grid. Clipped as whole numbers: kernels before it saturate at 8 bits, and no earlier."""
    kind = grid.dtype
    ends = torch.iinfo(kind)
    how = (float(grid.scale), int(grid.zero_point), ends.min, ends.max, kind)
    q = torch.ops.quantized_decomposed.quantize_per_tensor(x, *how)
    if (grid.quant_min, grid.quant_max) != (ends.min, ends.max):
        q = q.clamp(grid.quant_min, grid.quant_max)
    made: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(q, *how)
    return made


def _multiplies(module: nn.Module) -> bool:
    """Whether a module is a product that can become an integer kernel."""
    if isinstance(module, nn.Conv1d | nn.Conv2d) and (module.padding_mode != "zeros"):
        return False  # what pads comes between the rounding and the product
    return type(module) in PRODUCTS and not (isinstance(module, nn.Conv1d) and isinstance(module.padding, str))


def _sites(model: nn.Module, layer: QuantizedLayer) -> Iterator[str]:
    """Modules that are a layer: those that own its weight, or the one that has its name."""
    if not layer.weight_name:
        yield from (name for name, _ in model.named_modules() if name == layer.name)
        return
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    weight = tensors.get(layer.weight_name)
    for name, module in model.named_modules():
        if weight is not None and getattr(module, "weight", None) is weight and not isinstance(module, nn.Embedding):
            yield name
