"""What was chosen: immutable, hashable values that survive a round trip through JSON.

A recipe says everything that a measurement depends on beside the model and the data: the same
recipe gives the same numbers. Values are checked here, where every door (notebook, page, command
line, file) passes.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_serializer

from workbench.errors import RecipeError

MIN_BITS, MAX_BITS = 2, 8


class FrozenDict(dict[str, Any]):
    """A dict that can be hashed because it cannot be changed."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a recipe cannot be changed; make another one with `recipe.replace(...)`")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def _whole(value: Any) -> Any:
    """Lets numpy integers through and keeps True, 4.0 and "4" out."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError("a whole number is needed") from None


def _bits(value: Any) -> Any:
    try:
        value = _whole(value)
    except ValueError:
        value = -1
    if value is not None and not MIN_BITS <= value <= MAX_BITS:
        raise ValueError(f"allowed are whole numbers from {MIN_BITS} to {MAX_BITS}, or None for no quantization")
    return value


Bits = Annotated[int | None, BeforeValidator(_bits)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.:-]{0,99}$")]


class Value(BaseModel):
    """Base of everything in a recipe: frozen, no unknown fields, errors in words."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise RecipeError(_in_words(type(self).__name__, error)) from None

    def __repr_args__(self) -> Any:
        """Only what differs from the defaults, so that a repr is also the shortest code."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value != field.get_default(call_default_factory=True):
                yield name, dict(value) if isinstance(value, FrozenDict) else value

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated like a new one.

        Raises:
            RecipeError: A field is unknown or its value is not allowed.
        """
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | changes))


def _in_words(owner: str, error: ValidationError) -> str:
    sentences = []
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("function-"))
        reason = problem["msg"].removeprefix("Value error, ")
        if isinstance(problem.get("ctx", {}).get("error"), RecipeError):
            sentences.append(f"{path}: {reason}")  # a part has said it already; add where it sits
            continue
        if problem["type"] == "extra_forbidden":
            known = ", ".join(_fields_of(owner))
            reason = f"there is no such field; {owner} has {known}"
        sentences.append(f"{owner}.{path} = {problem['input']!r}: {reason}")
    return "; ".join(sentences) + "."


def _fields_of(owner: str) -> list[str]:
    return next((list(kind.model_fields) for kind in Value.__subclasses__() if kind.__name__ == owner), [])


class LayerOverride(Value):
    """What one layer, or every layer that a wildcard names, does differently.

    A field that is left out is taken from the `Quantization` around it; ``None`` switches
    quantization off for the layer.
    """

    weight_bits: Bits = None
    activation_bits: Bits = None

    def __repr_args__(self) -> Any:
        for name in sorted(self.model_fields_set):
            yield name, getattr(self, name)

    @model_serializer
    def _what_was_set(self) -> dict[str, int | None]:
        """Left out and None differ, so only what was set is written."""
        return dict(self.__repr_args__())

    def __hash__(self) -> int:
        return hash(tuple(self.__repr_args__()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerOverride) and dict(self.__repr_args__()) == dict(other.__repr_args__())


def _freeze(layers: Mapping[str, LayerOverride]) -> FrozenDict:
    return FrozenDict(sorted(layers.items()))


class Quantization(Value):
    """How weights and activations are put on a grid of 2 to 8 bits.

    Example:
        >>> Quantization(weight_bits=4, activation_bits=8, layers={"fc2": {"weight_bits": 8}})
        Quantization(weight_bits=4, activation_bits=8, layers={'fc2': LayerOverride(weight_bits=8)})
    """

    weight_bits: Bits = None
    """Bits per weight; None leaves the weights in floating point."""
    activation_bits: Bits = None
    """Bits per activation at the input of each quantized layer; None leaves them in floating point."""
    method: Literal["nearest", "naive", "gptq", "quantease", "adaround"] = "nearest"
    """How weights are rounded; activations are rounded to the nearest grid point.

    ``nearest``: to the nearest grid point, at once. ``gptq``, ``quantease``, ``adaround``: so that the layer's
    output on the calibration data changes least, in parts of a second to seconds; linear layers and convolutions
    follow, others are rounded to nearest. ``naive``: the survey's ``clip(round(x * 2^(n-1)), 0, 2^(n-1)-1)``,
    with neither a scale nor a sign; it ignores the four fields below."""
    scheme: Literal["symmetric", "affine", "midrise"] = "symmetric"
    """Grid of the weights: around zero, with a zero point, or with zero between two values, as many on either
    side (for 2 bits; at 8 it is symmetric). Activations always have a zero point."""
    granularity: Literal["tensor", "channel"] = "channel"
    """One scale per weight tensor or per output channel. Activations have one per tensor."""
    range: Literal["minmax", "percentile", "mse", "hessian"] = "mse"
    """Which values the grid spans: all, all but the outermost 0.1 %, or what gives the least squared error;
    ``hessian`` weighs a weight's error by its input's power on the calibration data (activations: as ``mse``)."""
    correction: Literal["none", "bias"] = "none"
    """What follows the rounding: ``bias`` moves each bias so that the layer's mean output on the calibration data
    stays where it was."""
    layers: Annotated[dict[str, LayerOverride], AfterValidator(_freeze)] = Field(default_factory=FrozenDict)
    """Overrides by module name or wildcard (``conv*``). An exact name wins; then the longest wildcard."""

    def bits_for(self, layer: str, *, common: bool = True) -> tuple[int | None, int | None]:
        """Weight and activation bits of a layer, its overrides applied.

        Args:
            layer: Its name.
            common: Whether the bits of all layers count for it, or only what names it.
        """
        wild = [pattern for pattern in self._wildcards if self.matches(pattern, layer)]
        matching = [*wild, layer] if layer in self.layers and layer not in wild else wild
        matching.sort(key=lambda pattern: (pattern == layer, len(pattern), pattern))
        bits = {"weight_bits": self.weight_bits, "activation_bits": self.activation_bits} if common else {}
        for pattern in matching:  # the most specific comes last and wins
            bits |= {name: getattr(self.layers[pattern], name) for name in self.layers[pattern].model_fields_set}
        return bits.get("weight_bits"), bits.get("activation_bits")

    @cached_property
    def _wildcards(self) -> tuple[str, ...]:
        """Looked for apart: with hundreds of layers set by name, each name need not be tried on each."""
        return tuple(pattern for pattern in self.layers if any(sign in pattern for sign in "*?["))

    @staticmethod
    def matches(pattern: str, layer: str) -> bool:
        """Whether an override's name or wildcard means a layer."""
        return pattern == layer or fnmatchcase(layer, pattern)

    @property
    def informed(self) -> bool:
        """Whether weights or biases depend on what the layers are given on the calibration data."""
        if self.method == "naive":
            return False
        return self.method != "nearest" or self.range == "hessian" or self.correction != "none"

    @property
    def active(self) -> bool:
        """Whether anything may be quantized at all."""
        own = (self.weight_bits, self.activation_bits)
        return any(own) or any(o.weight_bits or o.activation_bits for o in self.layers.values())


class Distillation(Value):
    """How a student is trained from a teacher, always beside a control that has none."""

    teacher: Name = "teacher-cnn"
    """A model of the zoo, or ``"self"`` for the model on the bench."""
    width: float = Field(default=0.5, gt=0, le=1)
    """The student has this share of the model's channels in every hidden layer."""
    loss: Name = "kd"
    temperature: float = Field(default=2.0, gt=0, le=100)
    """Softens both distributions in the loss; must be above 0."""
    weight: float = Field(default=0.9, ge=0, le=1)
    """Share of the teacher's loss on labelled images: weight * distillation + (1 - weight) * cross-entropy."""
    images: Count = 10_000
    """Training images that the student sees."""
    labels: Annotated[int, BeforeValidator(_whole), Field(ge=0)] = 500
    """How many of these have a label. The control learns from them alone, with as many steps."""
    epochs: Count = 8
    """Passes over the images; the control takes equally many steps."""
    seed: Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**31)] = 0


class Deployment(Value):
    """What runs the model, and how."""

    runtime: Name = "onnxruntime"
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")] = "cpu"
    batch: Annotated[Count, Field(le=65_536)] = 1
    """Inputs per call."""
    threads: Annotated[Count, Field(le=1024)] = 1


class Recipe(Value):
    """Everything that was chosen. The same recipe gives the same numbers.

    Example:
        >>> recipe = Recipe(quantization=Quantization(weight_bits=4))
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
    """

    VERSION: ClassVar[int] = 1

    version: Literal[1] = 1
    quantization: Quantization = Quantization()
    distillation: Distillation | None = None
    deployment: Deployment = Deployment()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_json(self) -> str:
        """The canonical JSON text: sorted keys, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what `to_json` wrote, or a person by hand.

        Raises:
            RecipeError: Not JSON, a later version, or a value that is not allowed.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"This is not a recipe: the text is not JSON ({error}).") from None
        if not isinstance(fields, dict):
            raise RecipeError(f"A recipe is a JSON object; this is a {type(fields).__name__}.")
        if isinstance(fields.get("version"), int) and fields["version"] > cls.VERSION:
            raise RecipeError(
                f"This recipe has version {fields['version']}; here, {cls.VERSION} is the latest. Update the workbench."
            )
        return cls(**fields)

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def label(self) -> str:
        """A short name for tables and plots: ``W4 A8``, ``W4 A8, fc2 W8``, ``half width + W4``, ``fp32``."""
        parts = []
        if self.distillation:
            parts.append(f"student ×{self.distillation.width:g}")
        q = self.quantization
        own = [f"{letter}{bits}" for letter, bits in (("W", q.weight_bits), ("A", q.activation_bits)) if bits]
        if q.active:
            text = " ".join(own) or "fp32"
            if q.method != "nearest":
                text = f"{text} {q.method}"
            changed = [f"{name} {_short(override)}" for name, override in q.layers.items()]
            same = {_short(override) for override in q.layers.values()}
            if len(changed) > 2:  # a group that was set in one go is one thing to the eye
                changed = (
                    [f"{len(changed)} layers {same.pop()}"]
                    if len(same) == 1
                    else [*changed[:2], f"+{len(changed) - 2}"]
                )
            parts.append(", ".join([text, *changed]))
        return " + ".join(parts) or "fp32"

    def code(self) -> str:
        """The recipe as Python code that makes it again."""
        used = [k for k in ("Quantization", "Distillation", "Deployment") if f"{k}(" in repr(self)]
        text = repr(self).replace("LayerOverride(", "dict(")
        return f"from workbench import {', '.join(['Recipe', *used])}\n\nrecipe = {text}\n"


def _short(override: LayerOverride) -> str:
    letters = {"weight_bits": "W", "activation_bits": "A"}
    return " ".join(
        f"{letters[name]}{getattr(override, name) or '–'}" for name in sorted(override.model_fields_set, reverse=True)
    )
