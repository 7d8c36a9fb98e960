"""What a device that is not here would take: ranges, with what limits them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Literal

from pydantic import BaseModel, ConfigDict

from workbench.hardware.profile import BITS, ProfileError
from workbench.report import Estimate

Limit = Literal["compute", "memory", "none"]
LISTED = 12
"""Rows of a table in a notebook at most, the slowest first."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RooflineRow(_Frozen):
    """One operator at one place in the network: a point of the roofline plot."""

    name: str
    operator: str
    kind: str
    """Its class: ``convolution``, ``depthwise``, ``gemm``, ``recurrent``, ``memory``."""
    calls: int
    macs: int
    bytes: float
    """That are moved from and to memory; 0 where all stays on the chip."""
    kernel: str
    """What multiplies: ``int8``; empty where nothing is multiplied."""
    weight_bits: int | None
    """As asked; None is floating point."""
    activation_bits: int | None
    low: float
    """Seconds at least."""
    value: float
    """Seconds, the geometric mean of both ends."""
    high: float
    """Seconds at most."""
    limit: Limit
    """What takes the longest; ``none`` where nothing is known to take time."""

    @property
    def flops(self) -> int:
        """Twice the MACs."""
        return 2 * self.macs

    @property
    def intensity(self) -> float | None:
        """FLOPs for each byte that is moved; None where nothing is."""
        return self.flops / self.bytes if self.bytes else None


class MemoryNeed(_Frozen):
    """What must lie in a device's memory, in bytes."""

    weights: int
    activations: int
    """That live at the same time, at most, for the whole batch."""
    capacity: int | None
    """For activations, and for weights unless they have a memory of their own; None where it is not known."""
    weight_capacity: int | None = None
    """Of that memory of their own."""

    @property
    def fits(self) -> bool | None:
        """Whether it does; None where the capacity is not known."""
        if self.weight_capacity is not None:
            room = None if self.capacity is None else self.activations <= self.capacity
            return room if self.weights <= self.weight_capacity else False
        return None if self.capacity is None else self.weights + self.activations <= self.capacity

    def largest_batch(self, batch: int) -> int | None:
        """The largest batch that fits, 0 where not even one does; None where the capacity is not known.

        Args:
            batch: That `activations` are of.
        """
        if self.capacity is None:
            return None
        if self.weight_capacity is not None and self.weights > self.weight_capacity:
            return 0
        left = self.capacity - (self.weights if self.weight_capacity is None else 0)
        return max(0, int(left // max(self.activations / batch, 1)))

    def __str__(self) -> str:
        need = f"{_bytes(self.weights)} of weights and {_bytes(self.activations)} of activations"
        if self.capacity is None:
            return f"{need}; how much memory there is is not known"
        room = _bytes(self.capacity)
        if self.weight_capacity is not None:
            room = f"{_bytes(self.weight_capacity)} for weights and {room}"
        return f"{need} {'fit' if self.fits else 'do not fit'} in {room}"


class DeviceBound(_Frozen):
    """What a recipe would take on a device that is not here."""

    device: str
    family: str
    batch: int
    latency: Estimate | None
    """Seconds per call of the batch: predicted, the range that the roofline allows; imported, where one measured
    latency was given. None where it cannot be told."""
    reason: str | None = None
    """Why it cannot be told, and what to do."""
    rows: tuple[RooflineRow, ...] = ()
    overhead: Estimate | None = None
    """Seconds of a call and of starting its operators, and of moving the input and the output where a link is known;
    None where none is known, so that the latency is without."""
    memory: MemoryNeed
    peaks: dict[str, float] = {}
    """Operations per second by kernel: the roofs."""
    bandwidth: float | None = None
    """Bytes per second: the slope."""
    power: float | None = None
    """Watts."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers has to know."""

    @property
    def macs(self) -> int:
        """Of the batch."""
        return sum(row.macs for row in self.rows)

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the time that compute, memory and overhead take, in the middle of the range."""
        spent = dict.fromkeys(("compute", "memory", "overhead"), 0.0)
        for row in self.rows:
            if row.limit != "none":
                spent[row.limit] += row.value
        spent["overhead"] = self.overhead.value if self.overhead else 0.0
        total = sum(spent.values())
        return {name: seconds / total if total else 0.0 for name, seconds in spent.items()}

    @property
    def limited_by(self) -> str:
        """What takes the largest share: ``compute``, ``memory`` or ``overhead``."""
        return max(self.shares, key=lambda name: self.shares[name])

    @property
    def kernels(self) -> dict[str, tuple[str, ...]]:
        """What runs the products: operators by their kernel, the widest first."""
        used = {row.kernel for row in self.rows if row.kernel}
        return {
            kernel: tuple(row.name for row in self.rows if row.kernel == kernel)
            for kernel in sorted(used, key=lambda kernel: -BITS[kernel])
        }

    @property
    def energy(self) -> Estimate | None:
        """Joules of a call at the device's whole power; None where the power or the latency is not known."""
        if self.power is None or self.latency is None:
            return None
        latency, power = self.latency, self.power
        return Estimate(
            value=latency.value * power,
            low=latency.low * power,
            high=latency.high * power,
            unit="J",
            source="predicted",  # the rated power is not what this load draws, even where the time was measured
        )

    @property
    def largest_batch(self) -> int | None:
        """The largest batch that fits; None where the memory is not known."""
        return self.memory.largest_batch(self.batch)

    def attainable(self, intensity: float, kernel: str) -> float:
        """Operations per second under the roof: the lesser of the peak and what memory can feed.

        Args:
            intensity: FLOPs for each byte.
            kernel: One of `peaks`.
        """
        return min(self.peaks[kernel], intensity * (self.bandwidth or float("inf")))

    def rescaled(self, seconds: float) -> DeviceBound:
        """The same with the latency that somebody measured there, and the rows stretched to it.

        For other recipes on that device use `Profile.calibrated(bound.latency.value, seconds)`.

        Raises:
            ProfileError: Not a time above 0, or this bound has no latency to compare with.
        """
        if self.latency is None:
            raise ProfileError(f"rescaled: nothing is predicted for {self.device}. {self.reason}")
        if not 0 < seconds < float("inf"):
            raise ProfileError(f"rescaled: seconds above 0 are needed; this is {seconds!r}.")
        factor = seconds / self.latency.value

        def times(value: float) -> dict[str, float]:
            return dict.fromkeys(("low", "value", "high"), value * factor)

        rows = tuple(row.model_copy(update=times(row.value)) for row in self.rows)
        overhead = self.overhead and self.overhead.model_copy(update=times(self.overhead.value))
        where = "inside" if self.latency.includes(seconds) else "outside"
        note = (
            f"The latency was measured there: {_seconds(seconds)}, {where} the predicted {_seconds(self.latency.low)} "
            f"to {_seconds(self.latency.high)}."
        )
        return self.model_copy(
            update={
                "latency": Estimate.exact(seconds, "s", "imported"),
                "rows": rows,
                "overhead": overhead,
                "notes": (*self.notes, note),
            }
        )

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        if self.latency is None:
            return f"{self.device}: {self.reason}"
        share = self.shares[self.limited_by]
        if self.latency.source == "imported":
            return f"{self.device}: {_seconds(self.latency.value)}, as measured there."
        return (
            f"{self.device}: {_seconds(self.latency.low)} to {_seconds(self.latency.high)} predicted, "
            f"limited by {self.limited_by} ({share:.0%})."
        )

    def __str__(self) -> str:
        return "\n".join([self.sentence, f"  {self.memory}.", *(f"  {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        """A small table for a notebook's output: the slowest operators first."""
        head = "".join(f"<th>{name}</th>" for name in ("operator", "MACs", "bytes", "FLOP/byte", "kernel", "time", ""))
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in self._cells())
        table = f"<table><caption>{escape(self.sentence)}</caption><tr>{head}</tr>{body}</table>" if self.rows else ""
        said = [*([] if self.rows else [self.sentence]), f"{self.memory}.", *self.notes]
        return table + "".join(f"<p>{escape(text)}</p>" for text in said)

    def _cells(self) -> Iterator[tuple[str, ...]]:
        slowest = sorted(self.rows, key=lambda row: -row.value)
        for row in slowest[:LISTED]:
            intensity = "–" if row.intensity is None else f"{row.intensity:.3g}"
            span = _seconds(row.low) if row.low == row.high else f"{_seconds(row.low)} to {_seconds(row.high)}"
            yield row.name, f"{row.macs:,}", f"{row.bytes:,.0f}", intensity, row.kernel, span, row.limit
        if len(slowest) > LISTED:
            yield f"and {len(slowest) - LISTED} more", "", "", "", "", "", ""


def _seconds(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    return ""


def _bytes(count: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"
