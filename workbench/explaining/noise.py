"""Signal and noise of values that are known by their histogram."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from workbench.quantization.quantizer import ActivationSpec, Quantizer

TINY = 1e-30


def sqnr(signal: Tensor, noise: Tensor) -> float:
    """10 log10 of two energies, shape (); at most 200 dB."""
    return min(200.0, 10 * math.log10(max(float(signal), TINY) / max(float(noise), float(signal) * 1e-20, TINY)))


@torch.inference_mode()
def input_sqnr(quantizer: Quantizer, spec: ActivationSpec) -> float | None:
    """Of a layer's input on the calibration data, dB; None where nothing arrived.

    It is taken from the histogram, whose bins add about 1.5 % of noise at 8 bits and less at fewer.
    """
    seen, grid = quantizer.observations.get(spec.layer), quantizer.activation_grid(spec)
    if seen is None or grid is None:
        return None
    noise = (grid.fake_quantize(seen.centres) - seen.centres).square()
    return sqnr((seen.counts * seen.centres.square()).sum(), (seen.counts * noise).sum())
