"""What a network computes and moves for one example: the values that counting gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class OperatorClass(StrEnum):
    """Operators that reach a like share of a device's peak, and are bounded alike."""

    CONVOLUTION = "convolution"
    """Dense or grouped, with or without a window, transposed or not."""
    DEPTHWISE = "depthwise"
    """Each channel by itself."""
    GEMM = "gemm"
    """Linear layers, products of activations, attention."""
    RECURRENT = "recurrent"
    """LSTM, GRU and RNN layers, step after step."""
    MEMORY = "memory"
    """What has no products to speak of: additions, normalisation, pooling, softmax, copies."""


@dataclass(frozen=True)
class Count:
    """One operator at one place in the network, all its calls for one example together.

    A MAC is one multiplication with the addition that follows; FLOPs are twice the MACs of products, as in
    `torch.utils.flop_counter`. Biases and element-wise arithmetic are bytes here and no FLOPs.
    """

    name: str
    """The layer or module that calls it."""
    operator: str
    """``convolution``, ``addmm``: torch's name."""
    kind: OperatorClass
    macs: int
    weights: tuple[tuple[str, int], ...]
    """Parameters that are read, by their names in the state, with how many elements are read."""
    inputs: int
    """Elements of the activations that are read."""
    outputs: int
    """Elements that are written."""
    calls: int = 1
    channels: tuple[int, int] = (1, 1)
    """Channels that are summed over, and channels that come out, within one group: what a matrix unit is fed with.
    A depthwise convolution has one that is summed over."""

    @property
    def flops(self) -> int:
        """Twice the MACs."""
        return 2 * self.macs

    def plus(self, other: Count) -> Count:
        """With the calls of another count at the same place."""
        weights = dict(self.weights)
        for name, elements in other.weights:
            weights[name] = weights.get(name, 0) + elements
        return Count(
            self.name,
            self.operator,
            self.kind,
            self.macs + other.macs,
            tuple(weights.items()),
            self.inputs + other.inputs,
            self.outputs + other.outputs,
            self.calls + other.calls,
            self.channels,
        )


@dataclass(frozen=True)
class Counts:
    """What a network computes and moves for one example."""

    rows: tuple[Count, ...]
    """In the order in which they are first reached. What a runtime computes on the way (activation functions and
    BatchNorm after a product) or not at all (views) has no row."""
    state: Mapping[str, int]
    """Elements of every parameter and floating point buffer, shared ones once."""
    inputs: int
    """Elements of the example."""
    outputs: int
    """Elements of what the network returns."""
    peak_activation: int
    """Elements of activations that live at the same time, at most."""
    uncounted: Mapping[str, int]
    """Operators whose products are not counted because no formula is known, with their calls."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all products."""
        return sum(row.macs for row in self.rows)

    @property
    def flops(self) -> int:
        """Twice the MACs."""
        return 2 * self.macs

    @property
    def parameters(self) -> int:
        """Elements of the state."""
        return sum(self.state.values())
