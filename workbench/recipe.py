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

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic_core import ErrorDetails

from workbench.errors import RecipeError

MIN_WEIGHT_BITS, MIN_BITS, MAX_BITS = 1, 2, 8
BEYOND = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
"""What an error of a number out of range is called, and its bound."""


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


def _bits_from(least: int) -> BeforeValidator:
    def checked(value: Any) -> Any:
        try:
            value = _whole(value)
        except ValueError:
            value = -1
        if value is not None and not least <= value <= MAX_BITS:
            raise ValueError(f"allowed are whole numbers from {least} to {MAX_BITS}, or None for no quantization")
        return value

    return BeforeValidator(checked)


Bits = Annotated[int | None, _bits_from(MIN_BITS)]
WeightBits = Annotated[int | None, _bits_from(MIN_WEIGHT_BITS)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.:-]{0,99}$")]
Scheme = Literal["symmetric", "affine", "midrise", "power_of_two", "codebook", "float", "float_wide", "mx"]


class Value(BaseModel):
    """Base of everything in a recipe: frozen, no unknown fields, errors in words."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **fields: Any) -> None:
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

    def replace(self, /, **changes: Any) -> Self:
        """A copy with some fields changed, validated like a new one.

        Raises:
            RecipeError: A field is unknown or its value is not allowed.
        """
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | changes))


def _in_words(owner: str, error: ValidationError) -> str:
    sentences = []
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("function-"))
        reason = problem["msg"].removeprefix("Value error, ").replace("Input should be", "allowed is", 1)
        if isinstance(problem.get("ctx", {}).get("error"), RecipeError):
            sentences.append(f"{path}: {reason.removesuffix('.')}")  # a part has said it already; add where it sits
            continue
        if problem["type"] == "extra_forbidden":
            known = ", ".join(_fields_of(owner))
            reason = f"there is no such field; {owner} has {known}"
        elif problem["type"] in BEYOND:
            reason = _range(owner, problem)
        elif problem["type"] == "literal_error":
            reason = reason.replace("allowed is", "allowed are")
        sentences.append(f"{owner}.{path} = {problem['input']!r}: {reason}")
    return "; ".join(sentences) + "."


def _range(owner: str, problem: ErrorDetails) -> str:
    """What is allowed in the place of a number that is too small or too large."""
    kinds = [kind for kind in Value.__subclasses__() if kind.__name__ == owner]
    field = kinds[0].model_fields.get(str(problem["loc"][0])) if kinds and len(problem["loc"]) == 1 else None
    found = dict(problem["ctx"])
    for bound in field.metadata if field else ():
        found |= {name: getattr(bound, name) for name in BEYOND.values() if hasattr(bound, name)}
    words = {"gt": "above", "ge": "from", "lt": "and below", "le": "to" if "ge" in found else "and at most"}
    said = [f"{word} {found[name]:,}".removesuffix(".0") for name, word in words.items() if name in found]
    return f"allowed are numbers {' '.join(said).removeprefix('and ')}"


def _fields_of(owner: str) -> list[str]:
    return next((list(kind.model_fields) for kind in Value.__subclasses__() if kind.__name__ == owner), [])


def _nested(bits: tuple[int | None, ...]) -> tuple[int, ...]:
    if None in bits:
        raise ValueError("name the bit-widths, each once")
    return tuple(sorted({each for each in bits if each is not None}))


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("name each teacher once")
    return names


class LayerOverride(Value):
    """What one layer, or every layer that a wildcard names, does differently.

    A field that is left out is taken from the `Quantization` around it; ``None`` switches
    quantization off for the layer.
    """

    weight_bits: WeightBits = None
    activation_bits: Bits = None
    scheme: Scheme | None = None
    """Grid of the layer's weights; None is as good as left out."""

    def __repr_args__(self) -> Any:
        for name in sorted(self.model_fields_set):
            if name != "scheme" or self.scheme is not None:
                yield name, getattr(self, name)

    @model_serializer
    def _what_was_set(self) -> dict[str, Any]:
        """Left out and None differ, so only what was set is written."""
        return dict(self.__repr_args__())

    def __hash__(self) -> int:
        return hash(tuple(self.__repr_args__()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerOverride) and dict(self.__repr_args__()) == dict(other.__repr_args__())


def _freeze(layers: Mapping[str, Any]) -> FrozenDict:
    return FrozenDict(sorted(layers.items()))


class Quantization(Value):
    """How weights are put on a grid of 1 to 8 bits, and activations on one of 2 to 8.

    Example:
        >>> Quantization(weight_bits=4, activation_bits=8, layers={"fc2": {"weight_bits": 8}})
        Quantization(weight_bits=4, activation_bits=8, layers={'fc2': LayerOverride(weight_bits=8)})
    """

    weight_bits: WeightBits = None
    """Bits per weight; None leaves the weights in floating point. At 1, a weight is its scale with either sign, or one
    of the two values of a codebook; other schemes need 2."""
    activation_bits: Bits = None
    """Bits per activation at the input of each quantized layer; None leaves them in floating point."""
    method: Literal["nearest", "naive", "gptq", "quantease", "adaround", "brecq"] = "nearest"
    """How weights are rounded; activations are rounded to the nearest grid point.

    ``nearest``: to the nearest grid point, at once. ``gptq``, ``quantease``, ``adaround``: so that the layer's
    output on the calibration data changes least, in parts of a second to seconds; linear layers and convolutions
    follow, others are rounded to nearest. ``brecq``: block after block, so that the block's output changes least
    with everything before it quantized as well; seconds to a minute. ``naive``: the survey's
    ``clip(round(x * 2^(n-1)), 0, 2^(n-1)-1)``, with neither a scale nor a sign; it ignores the fields below."""
    scheme: Scheme = "symmetric"
    """Grid of the weights. Evenly spaced: around zero, with a zero point, with zero between two values, as many on
    either side (``midrise``, for 2 bits; at 8 it is symmetric, and at 1 symmetric is mid-rise), or around zero with a
    step of 2^k (``power_of_two``). Unevenly: values that k-means finds (``codebook``), floating-point numbers of few
    bits (``float``: E4M3, E2M3, E2M1 at 8, 6 and 4 bits; ``float_wide``: E5M2, E3M2, E3M0), or those of ``float`` with
    one power of two for each block of 32 weights of an output channel, whatever the granularity (``mx``). No integer
    kernel runs uneven grids: their weights run in fp32. Activations always lie on an even grid with a zero point."""
    granularity: Literal["tensor", "channel", "group"] = "channel"
    """One scale (or codebook) per weight tensor, per output channel, or per `group_size` weights of an output
    channel. Scales of groups take two bytes, and no integer kernel runs them: such weights run in fp32.
    ``quantease`` moves the weights on them and leaves the scales as they are. Activations have one per tensor."""
    group_size: Count = 32
    """Weights that follow each other in an output channel, its other dimensions flattened, and share a scale where
    the granularity is ``group``; the last group of a channel may be shorter."""
    range: Literal["minmax", "percentile", "mse", "kl", "hessian", "auto"] = "mse"
    """Which values the grid spans: all, all but the outermost 0.1 %, what gives the least squared error, or what
    keeps the distribution of values closest (``kl``); ``hessian`` weighs a weight's error by its input's power on
    the calibration data (activations: as ``mse``). ``auto`` takes for each layer what changes its output on the
    calibration data least: of its weights, as rounded to nearest and by the second moments of its inputs; of its
    input, by its histogram. A codebook spans nothing: ``hessian`` weighs its k-means, ``auto`` chooses between
    weighing or not, and the others are the same to it. Where a layer's inputs are not known, ``hessian`` and
    ``auto`` are ``mse`` for its weights."""
    activation_range: Literal["static", "dynamic"] = "static"
    """When the range of activations is taken: before, on the calibration data, as `range` says; or ``dynamic``, anew
    at each call, from the smallest to the largest value that arrives at a layer. That needs no calibration and 8 bits,
    and the examples of a batch share the range. Operands of products and sums without weights stay ``static``."""
    equalize: bool = False
    """Whether channels are rescaled between layers first, so that their weights have ranges alike."""
    correction: Literal["none", "bias", "batchnorm"] = "none"
    """What follows the rounding: ``bias`` moves each bias so that the layer's mean output on the calibration data
    stays where it was; ``batchnorm`` sets mean and spread of each channel anew with everything before the layer
    quantized, as if the statistics of a BatchNorm were taken again."""
    sums: Literal["none", "shortcut", "both"] = "none"
    """Which operands of residual additions `activation_bits` count for as well (``Sum operand`` among the layers):
    ``shortcut``, what goes around the layer whose output is added, which OpenVINO needs to make one kernel of both;
    or ``both``, which onnxruntime needs to run that layer in integers. With ``none``, those that `layers` names."""
    layers: Annotated[dict[str, LayerOverride], AfterValidator(_freeze)] = Field(default_factory=FrozenDict)
    """Overrides by module name or wildcard (``conv*``). An exact name wins; then the longest wildcard."""

    def bits_for(self, layer: str, *, common: bool = True) -> tuple[int | None, int | None]:
        """Weight and activation bits of a layer, its overrides applied.

        Args:
            layer: Its name.
            common: Whether the bits of all layers count for it, or only what names it.
        """
        found = {"weight_bits": self.weight_bits, "activation_bits": self.activation_bits} if common else {}
        found |= self.overridden(layer)
        return found.get("weight_bits"), found.get("activation_bits")

    def scheme_for(self, layer: str) -> Scheme:
        """Grid of a layer's weights, its overrides applied."""
        scheme: Scheme = self.overridden(layer).get("scheme", self.scheme)
        return scheme

    def overridden(self, layer: str) -> dict[str, Any]:
        """What all overrides together say about a layer; the most specific wins."""
        wild = [pattern for pattern in self._wildcards if self.matches(pattern, layer)]
        matching = [*wild, layer] if layer in self.layers and layer not in wild else wild
        matching.sort(key=lambda pattern: (pattern == layer, len(pattern), pattern))
        found: dict[str, Any] = {}
        for pattern in matching:  # the most specific comes last
            found |= dict(self.layers[pattern].__repr_args__())
        return found

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later are left out at their default, so that a recipe keeps the key that it had."""
        fields: dict[str, Any] = handler(self)
        usual = {
            name: type(self).model_fields[name].default
            for name in ("group_size", "activation_range", "equalize", "sums")
        }
        return {name: value for name, value in fields.items() if name not in usual or value != usual[name]}

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
        return self.method != "nearest" or self.range in ("hessian", "auto") or self.correction != "none"

    @property
    def joint(self) -> bool:
        """Whether a layer's numbers depend on what the recipe makes of other layers."""
        return self.active and self.method != "naive" and (self.method == "brecq" or self.correction == "batchnorm")

    @property
    def active(self) -> bool:
        """Whether anything may be quantized at all."""
        own = (self.weight_bits, self.activation_bits)
        return any(own) or any(o.weight_bits or o.activation_bits for o in self.layers.values())


class Features(Value):
    """What hidden layers of a student learn from its teacher's, beside what its outputs learn."""

    loss: Name = "hints"
    """``hints``: the same values at the same place; ``attention``: the same places; ``distance`` and ``angle``: the
    same relations between the examples of a batch."""
    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Times this, it is added to the loss of the outputs, on all images."""
    pairs: Annotated[dict[str, str], AfterValidator(_freeze)] = Field(default_factory=FrozenDict)
    """Layers of the student and, for each, the teacher's that it learns from; empty: as is proposed."""


class Distillation(Value):
    """How a student is trained from a teacher, always beside a control that has none."""

    teacher: Name = "teacher-cnn"
    """A model of the zoo, or ``"self"`` for the model on the bench."""
    student: Name | None = None
    """One of the bench's own students, instead of a form that is made from the model; the fields on form are then
    ignored."""
    form: Literal["width", "depth", "separable", "low_rank"] = "width"
    """What the student is made from the model by: hidden layers with a share of the channels; blocks left out; each
    convolution as a depthwise and a pointwise one; each weight matrix as a product of two of a lower rank. Fields of
    other forms are ignored."""
    width: Share = 0.5
    """The student has this share of the model's channels in every hidden layer."""
    layers: Annotated[dict[str, Share], AfterValidator(_freeze)] = Field(default_factory=FrozenDict)
    """Widths of single layers, by name or wildcard (``conv*``); an exact name wins, then the longest wildcard. Layers
    whose outputs meet in an addition have one width."""
    depth: Share = 0.5
    """Share of the blocks that stay, of those that can be left out; those that change least are left out first."""
    rank: Share = 0.25
    """Share of each weight matrix's full rank. A layer that two factors would make no smaller stays as it is."""
    initial: Literal["random", "model"] = "random"
    """The student's first weights: new ones by the seed, or the model's where shapes allow: its channels of the largest
    filters, its remaining blocks, the nearest factors by singular value decomposition."""
    loss: Name = "dist"
    """How the outputs learn: ``kd`` (Hinton), ``dkd``, ``dist``, ``standardised`` (logits), ``cosine`` or ``mse``. From
    random weights ``dist`` leads ``kd`` by 1.4 points where 500 of 10,000 images have a label and by 0.8 where all have
    one; from the model's the two are alike (`bench/losses.py`)."""
    temperature: float = Field(default=2.0, gt=0, le=100)
    """Divides the logits of both before the softmax; above 0. The loss is multiplied by its square, so that the weight
    keeps its meaning. ``cosine`` and ``mse`` have no softmax and do not look at it. 1 is 0.2 to 0.6 points worse than 2
    for ``dist`` (`bench/losses.py`)."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the teacher's loss on labelled images: weight * distillation + (1 - weight) * cross-entropy. With labels
    for all images and ``kd``, the 0.9 of many papers is 0.2 to 0.6 points worse; for ``dist``, nothing can be told
    apart (`bench/losses.py`)."""
    features: Features | None = None
    """What hidden layers learn as well; None: nothing."""
    images: Count = 10_000
    """Training images that the student sees."""
    labels: Annotated[int, BeforeValidator(_whole), Field(ge=0)] = 500
    """How many of these have a label. The control learns from them alone, with as many steps."""
    epochs: Count = 8
    """Passes over the images; the control takes equally many steps."""
    seed: Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**31)] = 0
    others: Annotated[tuple[Name, ...], AfterValidator(_each_once)] = ()
    """More teachers; the student learns from the mean of their softened probabilities and the teacher's."""
    augmentation: Literal["none", "crop", "flip", "crop_flip"] = "none"
    """What is done to the images of both, never to those that are held out: moved by up to a fourteenth of their side
    (``crop``, of an image with zeros around it), mirrored left to right at random (``flip``), or both."""
    views: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=64)] = 4
    """Augmented versions of each image, whose teacher's outputs are computed once; 0: a new version in every epoch, and
    the teacher asked again for each batch, which takes longer."""
    patience: Count | None = None
    """Evaluations without a better accuracy of either after which both end early; None: never. The best weights are
    then used in the place of the last."""
    soup: Annotated[Count, Field(le=16)] = 1
    """Students of seeds that follow each other, each with the labelled images of its own seed, whose weights are
    averaged where that is no worse on held-out images (a model soup: Wortsman et al., 2022), their channels put in the
    order of the best one's; the control likewise."""

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As in `Quantization`."""
        fields: dict[str, Any] = handler(self)
        usual: dict[str, Any] = {
            "student": None,
            "form": "width",
            "layers": {},
            "depth": 0.5,
            "rank": 0.25,
            "initial": "random",
            "features": None,
            "others": [],
            "augmentation": "none",
            "views": 4,
            "patience": None,
            "soup": 1,
        }
        return {name: value for name, value in fields.items() if name not in usual or value != usual[name]}

    @property
    def teachers(self) -> tuple[str, ...]:
        """All who teach, by name."""
        return (self.teacher, *self.others)

    @property
    def label(self) -> str:
        """A short name of the student: ``student ×0.5``, ``student depth ×0.5``, ``soup of 3 student separable``."""
        return self._form if self.soup == 1 else f"soup of {self.soup} {self._form}"

    @property
    def _form(self) -> str:
        if self.student:
            return f"student {self.student}"
        if self.form == "width":
            own = [f"{name} ×{share:g}" for name, share in self.layers.items()]
            return ", ".join([f"student ×{self.width:g}", *(own if len(own) <= 2 else [*own[:2], f"+{len(own) - 2}"])])
        shares = {"depth": f"depth ×{self.depth:g}", "low_rank": f"rank ×{self.rank:g}"}
        return f"student {shares.get(self.form, self.form)}"


class Finetuning(Value):
    """How a quantized network is trained on, from the weights that it has, on the grids that its recipe asks for.

    Weights and the steps of all grids are learned together: Esser et al., "Learned Step Size Quantization", 2020.
    Training begins where the recipe's method left the network: one that looks at data is a better start.
    """

    images: Count = 18_000
    """Training images. Some of the task's last ones are always held out."""
    epochs: Count = 4
    """Passes over them."""
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    """The highest of the weights; it rises at first and falls to zero."""
    distillation: float = Field(default=1.0, ge=0, le=1)
    """Share of the teacher's outputs in the loss; the rest are the labels, where the outputs are classes."""
    teacher: Name | None = None
    """Who teaches: one of `Distillation.teacher`; None is the same network in fp32."""
    nested: Annotated[tuple[Bits, ...], AfterValidator(_nested)] = ()
    """Bit-widths of weights that the one network is to be good at, each with steps of its own: ``(2, 3, 4, 8)``.
    Empty: only those of the recipe."""
    seed: Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**31)] = 0

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As in `Quantization`."""
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if name != "teacher" or value is not None}


class Deployment(Value):
    """What runs the model, and how."""

    runtime: Name = "onnxruntime"
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?|gpu(\.\d+)?|npu|rocm|directml|coreml)$")] = "cpu"
    """``cuda:1`` is torch's second one; ``gpu``, ``gpu.1`` and ``npu`` are OpenVINO's names."""
    batch: Annotated[Count, Field(le=2**31 - 1)] = 1
    """Inputs per call. How many fit in memory a bench knows, which names the largest number that does."""
    threads: Annotated[Count, Field(le=1024)] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    """Floating-point numbers of what is not integer; ``bf16`` has fp32's range and 8 bits of its 24."""

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As in `Quantization`."""
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if name != "precision" or value != "fp32"}


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
    finetuning: Finetuning | None = None
    deployment: Deployment = Deployment()

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As in `Quantization`."""
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if name != "finetuning" or value is not None}

    def __hash__(self) -> int:
        return hash(self.key)

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

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def label(self) -> str:
        """A short name for tables and plots: ``W4 A8``, ``W4 A8, fc2 W8``, ``half width + W4``, ``fp32``."""
        parts = []
        if self.distillation:
            parts.append(self.distillation.label)
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
        if self.finetuning:
            parts.append("fine-tuned")
        return " + ".join(parts) or "fp32"

    def code(self) -> str:
        """The recipe as Python code that makes it again."""
        used = [
            k for k in ("Quantization", "Distillation", "Features", "Finetuning", "Deployment") if f"{k}(" in repr(self)
        ]
        text = repr(self).replace("LayerOverride(", "dict(")
        return f"from workbench import {', '.join(['Recipe', *used])}\n\nrecipe = {text}\n"


def _short(override: LayerOverride) -> str:
    letters = {"weight_bits": "W", "activation_bits": "A", "scheme": ""}
    return " ".join(
        f"{letters[name]}{value or '–'}" for name, value in sorted(dict(override.__repr_args__()).items(), reverse=True)
    )
