"""The roofline, layer by layer: time is at least what the products take and what the bytes take.

S. Williams, A. Waterman, D. Patterson, *Roofline: An Insightful Visual Performance Model*, CACM 52(4), 2009. Both
peaks are multiplied by the share that operators of a class reach (`workbench.hardware.efficiency`), once the most
and once the least: the range. What it does not know: how well a small batch fills a large device, heat, other load,
and operators that a runtime adds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from workbench.hardware.bound import DeviceBound, Limit, MemoryNeed, RooflineRow
from workbench.hardware.counts import Count, Counts, OperatorClass
from workbench.hardware.efficiency import CACHED, EFFICIENCY, LINK, RESIDUAL
from workbench.hardware.precision import Asked, Precision
from workbench.hardware.profile import BITS, Profile
from workbench.hardware.wording import notes_on, refusal
from workbench.report import Estimate

LOOKED_UP = 8
"""Bits in which a quantized table lies, whatever the kernels: the least that can be addressed."""


class Span(NamedTuple):
    """Seconds, at least and at most."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The geometric mean: as far from either end."""
        return math.sqrt(self.low * self.high)


class _Choice(NamedTuple):
    kernel: str
    span: Span
    bytes: float
    limit: Limit


def bound(counts: Counts, precision: Precision, profile: Profile, batch: int = 1) -> DeviceBound:
    """The range of latencies that a device can be expected to have.

    Args:
        counts: Of the network, for one example.
        precision: The recipe's bits.
        profile: The device.
        batch: Examples in a call.

    Returns:
        A bound without a latency where the device has no kernels for the recipe.
    """
    roof = _Roofline(counts, precision, profile, batch)
    common = {
        "device": profile.name,
        "family": profile.family,
        "batch": batch,
        "memory": roof.memory,
        "peaks": dict(profile.peaks),
        "bandwidth": profile.memory_bandwidth,
        "power": profile.power,
    }
    asked = [(row, precision.of(row)) for row in counts.rows]
    missing = [row for row, bits in asked if row.macs and not profile.kernels_for(bits.whole)]
    if missing:
        return DeviceBound(latency=None, reason=refusal(missing, precision, profile), **common)
    rows = tuple(roof.row(row, bits) for row, bits in asked)
    overhead = roof.overhead()
    parts = [(row.low, row.value, row.high) for row in rows]
    parts += [(overhead.low, overhead.value, overhead.high)] if overhead else []
    low, value, high = (math.fsum(part[i] for part in parts) for i in range(3))
    latency = Estimate(value=value, low=low, high=high, unit="s", source="predicted")
    notes = tuple(notes_on(counts, asked, rows, profile, roof.memory, overhead))
    return DeviceBound(latency=latency, rows=rows, overhead=overhead, notes=notes, **common)


class _Roofline:
    def __init__(self, counts: Counts, precision: Precision, profile: Profile, batch: int) -> None:
        self._counts, self._precision, self._profile, self._batch = counts, precision, profile, batch
        between = profile.kernels_for(precision.between) or profile.kernels
        self._between = BITS[between[0]]
        """Bits in which activations lie that no product reads."""
        self._float = BITS[(profile.kernels_for(None) or profile.kernels)[0]]
        """Bits of a tensor that stays in floating point."""
        held = {
            name: self._held(row, precision.of(row))
            for row in counts.rows
            for name, _ in row.weights
            if precision.weight(name) is not None
        }
        weights = sum(elements * held.get(name, self._float) / 8 for name, elements in counts.state.items())
        self.memory = MemoryNeed(
            weights=math.ceil(weights),
            activations=math.ceil(counts.peak_activation * batch * self._between / 8),
            capacity=None if profile.memory is None else int(profile.memory),
            weight_capacity=None if profile.weight_memory is None else int(profile.weight_memory),
        )
        self._streamed = 1.0 if profile.scratchpad is None else max(0.0, 1 - profile.scratchpad / max(weights, 1))
        """Share of the weights that come from memory at every call."""

    def row(self, count: Count, asked: Asked) -> RooflineRow:
        """The roofline of one operator: the kernel that is done first, of those that can."""
        if count.macs:
            choices = [self._choice(count, asked, kernel) for kernel in self._profile.kernels_for(asked.whole)]
        else:
            choices = [self._choice(count, asked, "")]
        best = min(choices, key=lambda choice: choice.span.high)
        low, value, high = self._pinned(Span(min(choice.span.low for choice in choices), best.span.high))
        return RooflineRow(
            name=count.name,
            operator=count.operator,
            kind=count.kind.value,
            calls=count.calls,
            macs=count.macs * self._batch,
            bytes=best.bytes,
            kernel=best.kernel,
            weight_bits=asked.weight,
            activation_bits=asked.activation,
            low=low,
            value=value,
            high=high,
            limit=best.limit,
        )

    def overhead(self) -> Estimate | None:
        """Of the call, of its operators, and of what goes in and out over a link."""
        profile = self._profile
        low = high = 0.0
        if profile.call_overhead is not None:
            low, high = profile.call_overhead
        if profile.operator_overhead is not None:
            calls = sum(row.calls for row in self._counts.rows)
            low, high = (
                total + calls * each for total, each in zip((low, high), profile.operator_overhead, strict=True)
            )
        if profile.scratchpad is not None and profile.memory_bandwidth is not None:
            moved = (self._counts.inputs + self._counts.outputs) * self._batch * self._between / 8
            least, most = LINK
            low, high = (
                low + moved / (profile.memory_bandwidth * most),
                high + moved / (profile.memory_bandwidth * least),
            )
        if not high:
            return None
        low, value, high = self._pinned(Span(low, high))
        return Estimate(value=value, low=low, high=high, unit="s", source="predicted")

    def _choice(self, count: Count, asked: Asked, kernel: str) -> _Choice:
        profile = self._profile
        # a matrix unit whose idle share is known says by itself why a depthwise convolution is slow
        kind = OperatorClass.CONVOLUTION if profile.tile and count.kind is OperatorClass.DEPTHWISE else count.kind
        efficiency = EFFICIENCY[kind]
        compute = Span(0.0, 0.0)
        if kernel:
            peak = profile.peaks[kernel] * _used(profile.tile, count.channels)  # type: ignore[index]
            operations = count.flops * self._batch
            compute = Span(operations / (peak * efficiency.compute[1]), operations / (peak * efficiency.compute[0]))
        moved, whole = self._moved(count, asked, kernel)
        memory = Span(0.0, 0.0)
        if profile.memory_bandwidth is not None and moved:
            least, most = efficiency.memory
            if profile.cache is not None and whole <= profile.cache:
                most *= CACHED
            memory = Span(moved / (profile.memory_bandwidth * most), moved / (profile.memory_bandwidth * least))
        span = Span(max(compute.low, memory.low), max(compute.high, memory.high))
        limit: Limit = "none" if not span.high else "compute" if compute.middle >= memory.middle else "memory"
        return _Choice(kernel, span, moved, limit)

    def _moved(self, count: Count, asked: Asked, kernel: str) -> tuple[float, float]:
        """Bytes that are moved from and to memory, and all that the operator touches."""
        bits = BITS[kernel] if kernel else self._between
        held = self._held(count, asked, kernel)
        weights = touched = 0.0
        for name, elements in count.weights:
            size = (held if self._precision.weight(name) else self._float) / 8
            weights += elements * size
            touched += min(elements, self._counts.state.get(name, elements)) * size
        activations = (count.inputs + count.outputs) * self._batch * bits / 8
        whole = touched + activations
        if self._profile.scratchpad is None:
            return weights + activations, whole
        return weights * self._streamed + (activations if activations > self._profile.scratchpad else 0.0), whole

    def _held(self, count: Count, asked: Asked, kernel: str = "") -> int:
        """Bits that a weight has in memory."""
        if not count.macs and asked.weight is not None:
            return LOOKED_UP  # nothing multiplies: rows of a table are unpacked as they are read
        kernel = kernel or (self._profile.kernels_for(asked.whole) or self._profile.kernels)[0]
        if asked.weight is not None and not kernel.startswith("int"):
            unpacked = [bits for bits in self._profile.weight_only if asked.weight <= bits < BITS[kernel]]
            return min(unpacked, default=BITS[kernel])
        return BITS[kernel]

    def _pinned(self, span: Span) -> tuple[float, float, float]:
        middle = span.middle * self._profile.scale
        if self._profile.pinned and span.low:
            either = min(RESIDUAL, math.sqrt(span.high / span.low))
            return middle / either, middle, middle * either
        return span.low, middle, span.high


def _used(tile: tuple[int, int] | None, channels: tuple[int, int]) -> float:
    """The share of a matrix unit that has something to do: channels fill it in whole tiles."""
    if tile is None:
        return 1.0
    return math.prod(given / (math.ceil(given / size) * size) for given, size in zip(channels, tile, strict=True))
