"""Other quantizers, each behind one function: a network, calibration inputs and bits -> what runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

Run = Callable[[Tensor], Tensor]


class Job(NamedTuple):
    """What a peer is given; the same for all of them."""

    network: nn.Module
    """In evaluation mode; its own copy."""
    images: Tensor
    """For calibration, without labels."""
    weight_bits: int
    activation_bits: int
    unsigned: bool
    """Whether no layer of the network is ever given a number below 0: then a grid needs no sign."""
    seconds: float
    """What a method that trains may take, roughly."""


Prepare = Callable[[Job], Run | None]
"""Gives None where the peer has no such setting."""
