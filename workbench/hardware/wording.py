"""What a bound says beside its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench.hardware.bound import MemoryNeed, RooflineRow
from workbench.hardware.counts import Count, Counts
from workbench.hardware.precision import Asked, Precision
from workbench.hardware.profile import BITS, Profile
from workbench.report import Estimate

NAMED = 3
"""Layers that a sentence names at most."""


def refusal(missing: Sequence[Count], precision: Precision, profile: Profile) -> str:
    """Why nothing is predicted: what a recipe can change, and what it cannot."""
    most = max(BITS[kernel] for kernel in profile.kernels)
    named = [row.name for row in missing]
    said = f"It has kernels for {' and '.join(profile.kernels)} alone, and {_listed(named)} would need floating point."
    reached = list(dict.fromkeys(name for row in missing for name in precision.layers_of(row)))
    if reached:
        said += f" Put weights and inputs of {_listed(reached)} on {most} bits or fewer."
    beyond = [row.name for row in missing if not precision.layers_of(row)]
    if beyond:
        said += f" A recipe has no bits for {_listed(beyond)}."
    return said


def notes_on(
    counts: Counts,
    asked: list[tuple[Count, Asked]],
    rows: tuple[RooflineRow, ...],
    profile: Profile,
    memory: MemoryNeed,
    overhead: Estimate | None,
) -> Iterator[str]:
    """Sentences that a reader of a range has to know.

    Args:
        counts: Of the network.
        asked: Its operators with the bits that are asked of them.
        rows: What became of each.
        profile: The device.
        memory: What has to lie there.
        overhead: What is not of an operator.
    """
    wider: dict[tuple[int, str], list[str]] = {}
    held: dict[tuple[int, str], list[str]] = {}
    unpacked = []
    for (_, bits), row in zip(asked, rows, strict=True):
        if row.kernel and bits.whole is not None and bits.whole < BITS[row.kernel]:
            wider.setdefault((bits.whole, row.kernel), []).append(row.name)
        elif row.kernel and bits.whole is not None and bits.weight is not None and bits.weight < BITS[row.kernel]:
            held.setdefault((bits.weight, row.kernel), []).append(row.name)
        if row.kernel and bits.whole is None and bits.weight is not None:
            unpacked.append(row.name)
    for (width, kernel), names in sorted(wider.items()):
        into = f"{BITS[kernel]}-bit kernels" if kernel.startswith("int") else f"{kernel} kernels"
        yield f"{width}-bit {'layer runs' if len(names) == 1 else 'layers run'} in {into} there ({_listed(names)})."
    for (width, kernel), names in sorted(held.items()):
        yield f"{width}-bit weights lie in {BITS[kernel]} bits there, as its kernels read them ({_listed(names)})."
    if unpacked:
        yield f"Weights alone are on grids, or on uneven ones, in {_listed(unpacked)}: floating point multiplies there."
    if any(row.kernel == "fp16" for row in rows) and "fp32" not in profile.peaks:
        yield "Floating point is fp16 there."
    if memory.fits is False:
        yield f"It does not fit: {memory}."
    if profile.memory_bandwidth is None:
        yield "The memory's bandwidth is not known: the range is of the products alone."
    if counts.uncounted:
        yield f"Not counted, as no formula is known: {', '.join(counts.uncounted)}. The range is too low by them."
    if overhead is not None and overhead.value > sum(row.value for row in rows):
        yield (
            "Overhead takes most of the time: so small a load does not fill the device, and the high end is likelier."
        )
    if profile.pinned:
        yield "The profile was stretched to a latency that was measured there."


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
