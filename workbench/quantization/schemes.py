"""From a range to the grid that spans it. A new scheme is a function here and an entry in `SCHEMES`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.grids import AnyGrid, FloatFormat, FloatGrid, Grid
from workbench.grids.base import exponents

EPS = torch.finfo(torch.float32).eps
SHARES = torch.linspace(0.2, 1.0, 21)
"""Of the full range, which a search tries first."""
AROUND = torch.linspace(-0.032, 0.032, 9)
"""And then round the best of these."""
BLOCK = 32
"""Values that share an exponent in OCP's microscaling formats."""
FORMATS = {
    "float": {2: (1, 0), 3: (2, 0), 4: (2, 1), 5: (2, 2), 6: (2, 3), 7: (3, 3), 8: (4, 3)},
    "float_wide": {2: (1, 0), 3: (2, 0), 4: (3, 0), 5: (3, 1), 6: (3, 2), 7: (4, 2), 8: (5, 2)},
}
"""Exponent and mantissa bits. Those of 8 bits are OCP's 8-bit formats; of 6 and 4 bits, `float` is OCP's E2M3 and
E2M1 and `float_wide` E3M2; at the other widths, what lies between."""

Over = Callable[[Tensor, Tensor, int, int | None, int], AnyGrid]


class Scheme(NamedTuple):
    """A kind of grid that a range is enough to make."""

    over: Over
    """From low, high, bits, axis and group; low and high have the shape of the grid's parameters, and hold 0."""
    signed: bool = True
    """Whether it has as many values below zero as above, so that only magnitudes count for its range."""
    shares: Tensor = SHARES
    around: Tensor = AROUND
    least_bits: int = 1
    """The fewest that its values mean something at."""


def grid_over(low: Tensor, high: Tensor, bits: int, scheme: str, axis: int | None = None, group: int = 0) -> AnyGrid:
    """The grid that spans a range.

    Args:
        low: Smallest values, shape (), (channels,) or (channels, groups).
        high: Largest values, the same shape.
        bits: 1 to 8; 2 to 8 of floating-point numbers.
        scheme: One of `SCHEMES`.
        axis: The axis that the channels run along.
        group: Values that share a range; 0 where whole channels do.
    """
    return SCHEMES[scheme].over(low.float().clamp(max=0.0), high.float().clamp(min=0.0), bits, axis, group)


def affine_over(low: Tensor, high: Tensor) -> Callable[[int], Grid]:
    """The affine grids of a range, by bits: those of all activations."""
    return lambda bits: _affine(low.float().clamp(max=0.0), high.float().clamp(min=0.0), bits, None, 0)


def naive_grid(bits: int) -> Grid:
    """The survey's ``clip(round(x * 2^(n-1)), 0, 2^(n-1)-1)``: steps of 2^(1-n), and nothing below zero."""
    return Grid(torch.tensor(2.0 ** (1 - bits)), torch.tensor(0, dtype=torch.int32), 0, 2 ** (bits - 1) - 1, bits)


def _symmetric(low: Tensor, high: Tensor, bits: int, axis: int | None, group: int) -> Grid:
    """Signed, zero point 0; scales as torch's observers have them. With zero one of two values, half the weights
    would vanish: at 1 bit, it is mid-rise."""
    if bits == 1:
        return _midrise(low, high, bits, axis, group)
    scale = _short(torch.maximum(-low, high) / ((2**bits - 1) / 2), group)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return Grid(scale, zero, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, bits, axis, group=group)


def _affine(low: Tensor, high: Tensor, bits: int, axis: int | None, group: int) -> Grid:
    """Unsigned, zero inside the range; scales and zero points as torch's observers have them."""
    steps = 2**bits - 1
    scale = _short((high - low) / steps, group)
    zero = (-torch.round(low / scale)).clamp(0, steps).to(torch.int32)
    return Grid(scale, zero, 0, steps, bits, axis, group=group)


def _midrise(low: Tensor, high: Tensor, bits: int, axis: int | None, group: int) -> Grid:
    """As many values above zero as below, none at it.

    The half steps of 8 bits fit into no 8-bit type: there, it is symmetric.
    """
    if bits == 8:
        return _symmetric(low, high, bits, axis, group)
    steps = 2**bits - 1
    scale = _short(torch.maximum(-low, high) / steps, group)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return Grid(scale, zero, -steps, steps, bits, axis, 2, group)


def _power_of_two(low: Tensor, high: Tensor, bits: int, axis: int | None, group: int) -> Grid:
    """As `_symmetric`, with the smallest step of 2^k that spans the range."""
    scale = (torch.maximum(-low, high) / ((2**bits - 1) / 2)).clamp(min=EPS)
    below = _two_to(exponents(scale))
    scale = torch.where(below < scale, 2 * below, below)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    span = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return Grid(scale, zero, *span, bits, axis, group=group, power_of_two=True)


def _float(low: Tensor, high: Tensor, bits: int, axis: int | None, group: int, *, formats: str) -> FloatGrid:
    """The range's end is the format's largest number."""
    form = FloatFormat(*FORMATS[formats][bits])
    scale = (torch.maximum(-low, high) / form.largest).clamp(min=2.0**-100)
    return FloatGrid(form, scale.bfloat16().float() if group else scale, axis, group)


def _microscaling(low: Tensor, high: Tensor, bits: int, axis: int | None, group: int) -> FloatGrid:
    """The shared exponent is ``floor(log2(largest value)) - emax``, and larger numbers saturate.

    OCP Microscaling Formats (MX) Specification 1.0, 2023, section 6.3.
    """
    form = FloatFormat(*FORMATS["float"][bits])
    shared = exponents(torch.maximum(-low, high).clamp(min=2.0**-100)) - form.emax
    return FloatGrid(form, _two_to(shared), axis, group, power_of_two=True)


def _short(scale: Tensor, group: int) -> Tensor:
    """Scales of groups as bfloat16: each has to be stored for a few values."""
    return (scale.bfloat16().float() if group else scale).clamp(min=EPS)


def _two_to(exponent: Tensor) -> Tensor:
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)


SCHEMES: dict[str, Scheme] = {
    "symmetric": Scheme(_symmetric),
    "affine": Scheme(_affine, signed=False, least_bits=2),
    "midrise": Scheme(_midrise),
    "power_of_two": Scheme(
        _power_of_two, shares=torch.tensor([0.125, 0.25, 0.5, 1.0]), around=torch.zeros(1), least_bits=2
    ),
    "float": Scheme(partial(_float, formats="float"), least_bits=2),
    "float_wide": Scheme(partial(_float, formats="float_wide"), least_bits=2),
    "mx": Scheme(_microscaling, shares=torch.tensor([0.25, 0.5, 1.0, 2.0]), around=torch.zeros(1), least_bits=2),
}
"""By the name that a recipe gives them."""
