"""What a student is before it is trained: counted, not measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from workbench.distillation.feature_teaching import BY_POSITION
from workbench.distillation.layer_pairs import Shape, grid_of, shapes
from workbench.distillation.students.inheriting import outputs_of
from workbench.distillation.students.making import in_words
from workbench.distillation.students.reduced import Reduced, layers_of, parameters
from workbench.distillation.students.shares import FIXED
from workbench.errors import RecipeError, nearest
from workbench.hardware.bound import DeviceBound
from workbench.hardware.counting import counted
from workbench.hardware.counts import Counts
from workbench.hardware.precision import Precision
from workbench.hardware.profile import Profile
from workbench.hardware.roofline import bound
from workbench.inputs import Inputs
from workbench.recipe import Features, Quantization
from workbench.report import Estimate, Report


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
    channels: dict[str, tuple[int, int]] = {}
    """Layers whose width can be chosen: channels that leave the student's and the model's."""
    layers: dict[str, Shape] = {}
    """Hidden layers, and the shape that each returns for one example."""
    teacher_layers: dict[str, Shape] = {}
    """The same of the teacher."""

    @property
    def larger(self) -> bool:
        """Whether it has more parameters than its teacher: allowed, and seldom meant."""
        return self.parameters > self.teacher_parameters

    def beside(self, report: Report) -> Estimate | None:
        """What a call takes where a recipe was timed beside the model: from its share of the work to all of the time.

        Small layers use a device less well, and a call has a part that no student makes shorter. On one core, students
        of seed-cnn by width from an eighth to a half, separable and of a quarter of the rank lay inside (onnxruntime,
        batch 1).

        Args:
            report: Of any recipe of the same model. Its latency times its speedup is the model's.

        Returns:
            Seconds for a call of the report's batch; None where it was not timed.
        """
        latency, speedup = report.latency, report.speedup
        if latency is None or speedup is None:
            return None
        low, high = sorted((self.share.value, 1.0))
        ends = {"low": low * latency.low * speedup.low, "high": high * latency.high * speedup.high}
        middle = math.sqrt(ends["low"] * ends["high"])
        return Estimate(value=middle, **ends, unit=latency.unit, source="predicted")

    def check_pairs(self, features: Features) -> None:
        """Whether hidden layers can learn from the teacher's that they are paired with.

        Raises:
            RecipeError: There is no layer of a name, or two that are to be compared by position have none in common.
        """
        for mine, other in features.pairs.items():
            ours, theirs = _shape("student", mine, self.layers), _shape("teacher", other, self.teacher_layers)
            alike = len(ours) == len(theirs) and (len(ours) == 3 or grid_of(ours) == grid_of(theirs))
            positions = grid_of(ours) or features.loss != "attention"
            if features.loss in BY_POSITION and not (alike and positions):
                raise RecipeError(
                    f"distillation.features.pairs: {mine!r} of the student returns {ours} per example and {other!r} of "
                    f"the teacher {theirs}; {features.loss} compares position with position. Pair layers that have "
                    "them alike, or take the loss 'distance', which needs none."
                )


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
        latency=_bounded(ours, layers_of(reduced.module), profile) if profile else None,
        changed=reduced.changed,
        kept=tuple(in_words(reduced.kept)),
        notes=tuple(_notes(reduced, parameters(model), parameters(teacher), copied)),
        channels=_channels(reduced, model),
        layers=_hidden(reduced.module, example.tensors[0]),
        teacher_layers=_hidden(teacher, example.tensors[0]),
    )


def _channels(reduced: Reduced, model: nn.Module) -> dict[str, tuple[int, int]]:
    ours, theirs = layers_of(reduced.module), layers_of(model)
    free = {*reduced.changed, *(name for name, why in reduced.kept.items() if why != FIXED)}
    return {
        name: (outputs_of(ours[name]), outputs_of(theirs[name])) for name in theirs if name in ours and name in free
    }


def _hidden(network: nn.Module, example: Tensor) -> dict[str, Shape]:
    """Of a copy that shares the weights: others may run the network meanwhile."""
    own = (*network.parameters(), *network.buffers())
    return shapes(copy.deepcopy(network, {id(tensor): tensor for tensor in own}), example)


def _shape(who: str, name: str, layers: Mapping[str, Shape]) -> Shape:
    if name not in layers:
        raise RecipeError(
            f"distillation.features.pairs: the {who} has no hidden layer {name!r}. {nearest(name, layers)}"
        )
    return layers[name]


def _bounded(counts: Counts, layers: Iterable[str], profile: Profile) -> DeviceBound:
    names = {f"{name}.weight": name for name in layers}
    return bound(counts, Precision(Quantization(), dict.fromkeys(names.values(), (None, None)), names), profile, 1)


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
