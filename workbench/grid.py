"""Tensors that lie on grids; the grids themselves are in `workbench.grids`, and their names here as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.grids import AnyGrid, CodebookGrid, DynamicGrid, FloatFormat, FloatGrid, Grid

__all__ = ["AnyGrid", "CodebookGrid", "DynamicGrid", "FloatFormat", "FloatGrid", "Grid", "QuantizedLayer", "whole_bias"]


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """What a recipe makes of one layer; None where a part stays in floating point."""

    name: str
    weight: Tensor | None = None
    """Whole numbers on `weight_grid`, in the shape of the module's weight."""
    weight_grid: AnyGrid | None = None
    activation_grid: Grid | None = None
    """Of the layer's input."""
    bias: Tensor | None = None
    """Whole numbers (int32) at `bias_scale`, where weights and activations both lie on grids for integer kernels:
    these add the bias to whole-number products, so it has their scale. float32 where it was corrected for
    the weights' rounding and no integer kernel runs."""
    weight_name: str = ""
    """In the model's state."""
    bias_name: str = ""
    dynamic: DynamicGrid | None = None
    """Of the layer's input in the place of `activation_grid`, where its range is taken anew at each call."""

    @property
    def integer(self) -> bool:
        """Whether integer kernels can run it whole: both its grids are known before, and of the kind that these
        multiply."""
        grid = self.weight_grid
        return grid is not None and grid.integer and self.activation_grid is not None

    @property
    def centred(self) -> Tensor | None:
        """int8, the weight's whole numbers less their zero point, as kernels multiply them that have none.

        None where these have other scales than one an output channel, or do not fit.
        """
        grid = self.weight_grid
        if self.weight is None or not isinstance(grid, Grid) or not grid.integer or grid.axis not in (None, 0):
            return None
        centred = self.weight.to(torch.int16) - grid.along(grid.zero_point, self.weight)
        if int(centred.amin()) < -128 or int(centred.amax()) > 127:
            return None
        return centred.to(torch.int8)

    @property
    def bias_scale(self) -> Tensor:
        """float32, shape () or (channels,): a weight's step times an activation's.

        Raises:
            ValueError: A part of the layer stays in floating point, or no integer kernel runs it.
        """
        if not isinstance(self.weight_grid, Grid) or not self.integer or self.activation_grid is None:
            raise ValueError(f"{self.name}: only a layer for integer kernels has a whole-number bias")
        return self.weight_grid.scale * self.activation_grid.scale

    def parameters(self) -> dict[str, Tensor]:
        """The float32 values that take the place of the model's own, by their names in its state."""
        made = {}
        if self.weight is not None and self.weight_grid is not None:
            made[self.weight_name] = self.weight_grid.dequantize(self.weight)
        if self.bias is not None:
            made[self.bias_name] = self.bias_values()
        return made

    def bias_values(self) -> Tensor:
        """The float32 values of the bias.

        Raises:
            ValueError: The layer has none.
        """
        if self.bias is None:
            raise ValueError(f"{self.name} has no bias of its own")
        if self.bias.is_floating_point():
            return self.bias
        return self.bias.to(torch.float32) * _per_output(self.bias_scale, self.bias)


def whole_bias(bias: Tensor, weight_grid: Grid, activation_grid: Grid) -> Tensor:
    """A bias at the scale of an integer kernel's sums, as int32."""
    scale = _per_output(weight_grid.scale * activation_grid.scale, bias)
    return torch.round(bias.double() / scale).clamp(-(2.0**31), 2.0**31 - 1).to(torch.int32)


def _per_output(scale: Tensor, bias: Tensor) -> Tensor:
    """Transposed convolutions with groups have one scale for the same channel of every group."""
    return scale if scale.dim() == 0 else scale.repeat(len(bias) // len(scale))
