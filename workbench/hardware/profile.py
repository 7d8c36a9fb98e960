"""A hardware profile: a device that need not be here, described by its peaks and bandwidth."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workbench.errors import WorkbenchError

Kernel = Literal["fp32", "fp16", "int8", "int4"]
BITS: dict[str, int] = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
Family = Literal[
    "microcontroller", "phone", "single-board computer", "edge accelerator", "FPGA", "laptop", "desktop", "data centre"
]
Positive = Annotated[float, Field(gt=0, strict=True)]
Range = Annotated[tuple[Positive, Positive], Field(strict=False)]
STEEPEST = 4.0
"""A peak at most grows by so much where the bits are halved: twice, and twice again where fp16 adds up in fp32."""
WIDEST = 10.0
"""High over low of an overhead at most; wider ranges say nothing."""


class ProfileError(WorkbenchError):
    """A profile has a figure that is missing, negative or in contradiction to another one."""


class Profile(BaseModel):
    """What a roofline has to know of a device. What is not known is left out, and what needs it is not told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, max_length=80)]
    family: Family
    description: str = ""
    """What computes: cores, clock, library."""
    peaks: dict[Kernel, Positive]
    """Operations per second, two for each MAC, dense; by the numbers that its kernels multiply (fp16 is bf16 as well).
    What is not there has no kernel."""
    memory_bandwidth: Positive | None = None
    """Bytes per second from the memory that holds what is too large for the chip."""
    memory: Positive | None = None
    """Bytes that activations, and weights unless `weight_memory` holds them, must fit in."""
    weight_memory: Positive | None = None
    """Bytes of a memory for weights alone: the flash of a microcontroller."""
    scratchpad: Positive | None = None
    """Bytes on the chip that its compiler fills: what fits is not moved at every call."""
    cache: Positive | None = None
    """Bytes of the last cache: what fits may come faster than from memory."""
    tile: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Channels that a matrix unit sums over and gives at once: fewer leave a part of it idle."""
    weight_only: tuple[Annotated[int, Field(ge=1, le=16)], ...] = ()
    """Bits of weights that kernels unpack as they multiply in floating point."""
    call_overhead: Range | None = None
    """Seconds of a call beside its operators, from and to."""
    operator_overhead: Range | None = None
    """Seconds to start an operator, from and to."""
    power: Positive | None = None
    """Watts: of the device as its maker rates it, or as measured while it ran."""
    sources: dict[str, str]
    """Where each figure comes from, by its field."""
    scale: Annotated[float, Field(gt=0, exclude=True)] = 1.0
    """What a measured latency showed: times are so much longer. Set by `calibrated`."""
    pinned: Annotated[bool, Field(exclude=True)] = False
    """Whether `scale` was measured."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.peaks:
            raise ValueError("peaks: at least one is needed, such as int8 = 4e12")
        for wide, narrow in (("fp16", "int8"), ("int8", "int4")):
            ratio = self.peaks.get(narrow, 0) / self.peaks.get(wide, float("inf"))  # type: ignore[call-overload]
            if ratio > STEEPEST * (1 + 1e-3):
                raise ValueError(
                    f"peaks.{narrow}: {ratio:.3g} times peaks.{wide}; halving the bits gives {STEEPEST:g} times at "
                    "most. Is it a figure for sparse weights, or in another unit? Give dense operations per second"
                )
        for field in ("call_overhead", "operator_overhead"):
            span = getattr(self, field)
            if span is not None and not span[0] <= span[1] <= WIDEST * span[0] * (1 + 1e-9):
                raise ValueError(
                    f"{field}: {list(span)} is not [low, high] with a high of at most {WIDEST:g} times low"
                )
        for field in ("scratchpad", "cache"):
            size, memory = getattr(self, field), self.memory
            if size is not None and memory is not None and size > memory:
                raise ValueError(f"{field}: {size:g} bytes on the chip are more than the memory's {memory:g}")
        self._sourced()
        return self

    def _sourced(self) -> None:
        given = self.model_fields_set - {"name", "family", "description", "sources", "scale", "pinned"}
        told = {key.partition(".")[0] for key, text in self.sources.items() if text.strip()}
        for field in sorted(given):
            if getattr(self, field) is not None and field not in told:
                raise ValueError(f"sources.{field}: the figure has no source; name a document or an address")
        for key in self.sources:
            field, _, kernel = key.partition(".")
            if field not in given or (kernel and kernel not in getattr(self, field)):
                raise ValueError(f"sources.{key}: there is no such figure in this profile")

    @property
    def kernels(self) -> tuple[str, ...]:
        """What it multiplies in, the widest first."""
        return tuple(sorted(self.peaks, key=lambda kernel: -BITS[kernel]))

    def kernels_for(self, bits: int | None) -> tuple[str, ...]:
        """Kernels that keep numbers of so many bits, the narrowest first; none where the device has none.

        Args:
            bits: Of whole numbers; None for floating point, for which fp32 or else fp16 is taken.
        """
        if bits is None:
            return tuple(kernel for kernel in ("fp32", "fp16") if kernel in self.peaks)[:1]
        whole = [kernel for kernel in self.kernels if kernel.startswith("int") and BITS[kernel] >= bits]
        return (*reversed(whole), *self.kernels_for(None))

    def calibrated(self, predicted: float, measured: float) -> Profile:
        """The profile with its times stretched so that a prediction becomes what was measured.

        Args:
            predicted: Seconds that this profile gives for some network and recipe: `DeviceBound.latency.value`.
            measured: Seconds that the device took for the same.

        Raises:
            ProfileError: One of them is not above 0.
        """
        if not (0 < measured < float("inf") and 0 < predicted < float("inf")):
            raise ProfileError(
                f"calibrated: seconds above 0 are needed; predicted is {predicted!r}, measured is {measured!r}."
            )
        return self.model_copy(update={"scale": self.scale * measured / predicted, "pinned": True})
