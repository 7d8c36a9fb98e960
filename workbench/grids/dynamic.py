"""A grid whose range is taken anew from every tensor that is put on it: what needs no calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class DynamicGrid:
    """ONNX's `DynamicQuantizeLinear`: 8 bits without sign, from the smallest to the largest value, and 0.

    One scale for the whole tensor of one call, so the examples of a batch share it: an example's numbers depend on
    those that it is computed with. ONNX operator specification, DynamicQuantizeLinear-11; of a tensor of zeros the
    scale is 1, as in onnxruntime, where the specification divides by it.
    """

    bits: ClassVar[int] = 8
    steps: ClassVar[int] = 255

    def parameters(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of a tensor, each float32 of shape ()."""
        # an empty one has no smallest value
        low, high = x.detach().aminmax() if x.numel() else (torch.zeros(()), torch.zeros(()))
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = (high - low) / self.steps
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return scale, torch.round(torch.clamp(-low / scale, 0, self.steps))

    def quantize(self, x: Tensor) -> Tensor:
        """The whole numbers of a tensor, uint8."""
        return self._rounded(x, *self.parameters(x)).to(torch.uint8)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Each value moved to the nearest point of the tensor's own grid, still float32."""
        scale, zero = self.parameters(x)
        return self._rounded(x, scale, zero).sub_(zero).mul_(scale)

    def _rounded(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        # a division, as the operator has it: a product with the inverse would round differently
        return (x / scale).round_().add_(zero).clamp_(0, self.steps)
