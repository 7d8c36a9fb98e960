"""What a student is before it is trained: counted, not measured."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from torch import nn

from workbench.distillation.students.making import in_words
from workbench.distillation.students.reduced import Reduced, parameters
from workbench.hardware.bound import DeviceBound
from workbench.hardware.counting import counted
from workbench.hardware.counts import Counts
from workbench.hardware.precision import Precision
from workbench.hardware.profile import Profile
from workbench.hardware.roofline import bound
from workbench.inputs import Inputs
from workbench.recipe import Quantization
from workbench.report import Estimate


class StudentInfo(BaseModel):
    """Size and work of a student in fp32, against the model's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int
    bytes: int
    """Of parameters and floating-point buffers, 4 for each element."""
    macs: int
    """Multiply-accumulates for one example."""
    model_parameters: int
    model_bytes: int
    model_macs: int
    teacher_parameters: int
    share: Estimate
    """The student's share of the model's MACs. Of its latency this is a guess: small layers use a device less well."""
    latency: DeviceBound | None = None
    """What a call of one example takes on the device that was asked for: a range."""
    changed: tuple[str, ...]
    """Layers or blocks of the model that are smaller, or left out."""
    kept: tuple[str, ...]
    """What could not be reduced, in words: ``fc2: no convolution``."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader of these numbers has to know."""

    @property
    def larger(self) -> bool:
        """Whether it has more parameters than its teacher: allowed, and seldom meant."""
        return self.parameters > self.teacher_parameters


def info(
    reduced: Reduced, model: nn.Module, teacher: nn.Module, example: Inputs, copied: bool, profile: Profile | None
) -> StudentInfo:
    """Count a student.

    Args:
        reduced: The student.
        model: What it was made from.
        teacher: What it learns from.
        example: One example, as a batch of one.
        copied: Whether it was to begin with the model's values.
        profile: The device whose latency is bounded.
    """
    ours, theirs = counted(reduced.module, example), counted(model, example)
    share = ours.macs / theirs.macs if theirs.macs else 1.0
    return StudentInfo(
        parameters=parameters(reduced.module),
        bytes=4 * ours.parameters,
        macs=ours.macs,
        model_parameters=parameters(model),
        model_bytes=4 * theirs.parameters,
        model_macs=theirs.macs,
        teacher_parameters=parameters(teacher),
        share=Estimate.exact(share, "", "predicted"),
        latency=_bounded(ours, profile) if profile else None,
        changed=reduced.changed,
        kept=tuple(in_words(reduced.kept)),
        notes=tuple(_notes(reduced, parameters(model), parameters(teacher), copied)),
    )


def _bounded(counts: Counts, profile: Profile) -> DeviceBound:
    return bound(counts, Precision(Quantization(), {}, {}), profile, 1)


def _notes(reduced: Reduced, model: int, teacher: int, copied: bool) -> list[str]:
    own = parameters(reduced.module)
    notes = []
    for name, other in (("teacher", teacher), ("model", model)):
        if own > other:
            notes.append(f"The student is larger than its {name}: {own:,} parameters against {other:,}.")
    if reduced.fresh and copied:
        notes.append(f"The model has no values that fit {_listed(reduced.fresh)}; new ones are drawn by the seed.")
    elif reduced.fresh:
        notes.append(f"It is not known how {_listed(reduced.fresh)} begin; they keep the model's values.")
    return notes


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
