"""What the fields of a quantization may be, in a person's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from workbench.errors import WorkbenchError
from workbench.recipe import Quantization, Recipe

if TYPE_CHECKING:
    from workbench.bench import Bench


class Words(NamedTuple):
    """A choice as it is offered."""

    label: str
    line: str
    """What it does, in one sentence."""


WORDS: dict[str, dict[Any, Words]] = {
    "method": {
        "nearest": Words("round to nearest", "Each weight goes to the nearest value of its grid, at once."),
        "naive": Words(
            "survey’s naive",
            "Neither a scale nor a sign: what is below 0 becomes 0, what is above 1 is cut. All below does nothing.",
        ),
        "gptq": Words("GPTQ", "Weight by weight; those that follow make up for the error of those before."),
        "quantease": Words(
            "QuantEase (coordinate descent)", "Goes over each layer’s weights until no single change helps its output."
        ),
        "adaround": Words("AdaRound", "Learns for each weight whether up or down changes the layer’s output less."),
        "brecq": Words(
            "BRECQ (block reconstruction)",
            "Learns the rounding block by block, all before it quantized as well. Seconds to a minute.",
        ),
    },
    "correction": {
        "none": Words("none", "Biases stay as they are."),
        "bias": Words("biases", "Moves each bias so that the layer’s mean output stays where it was."),
        "batchnorm": Words(
            "mean and spread",
            "Sets each channel’s mean and spread anew, as BatchNorm’s statistics taken again.",
        ),
    },
    "scheme": {
        "symmetric": Words("symmetric", "Even steps around zero."),
        "affine": Words("affine", "Even steps with a zero point, for weights that lie to one side."),
        "midrise": Words("mid-rise", "Even steps with zero between two values: at 2 bits, two on either side."),
        "power_of_two": Words("power of two", "Even steps of 2ᵏ: a shift takes the place of a product."),
        "codebook": Words("codebook (k-means)", "Uneven values, found where the weights are dense."),
        "float": Words("float (E4M3, E2M1)", "Floating-point numbers of few bits: finer near zero."),
        "float_wide": Words("float, wide (E5M2, E3M0)", "As float, with more bits for the exponent."),
        "mx": Words("block-scaled float (MX)", "As float, with one power of two for each block of 32 weights."),
    },
    "granularity": {
        "tensor": Words("per tensor", "One scale for all weights of a layer."),
        "channel": Words("per channel", "One scale for each output channel."),
        "group": Words("per group", "One scale for each few weights of a channel: finer, and larger on disk."),
    },
    "range": {
        "minmax": Words("min–max", "The grid spans all values."),
        "percentile": Words("99.9 percentile", "The outermost 0.1 % are clipped."),
        "mse": Words("least error (MSE)", "Clips where that makes the squared error of the values least."),
        "kl": Words("least divergence (KL)", "Keeps the distribution of the values closest."),
        "hessian": Words("least output error", "As least error, each weight counted by the power of its input."),
        "auto": Words("best for each layer", "Tries the ranges on each layer; what changes its output least stays."),
    },
    "activation_range": {
        "static": Words("calibrated", "The range of activations is set once, on the calibration data."),
        "dynamic": Words("at each call", "Each call takes its own: no calibration, 8 bits, shared by its batch."),
    },
    "equalize": {
        False: Words("as they are", "Channels keep their ranges."),
        True: Words("equalized", "Rescales channels between layers, so that their weights have ranges alike."),
    },
    "sums": {
        "none": Words("as they are", "Residual additions stay in floating point."),
        "shortcut": Words("shortcut rounded", "The way around is rounded too: OpenVINO adds within a layer's kernel."),
        "both": Words("both rounded", "Both operands are rounded too: onnxruntime runs all of the block in integers."),
    },
}
"""Label and explanation of every value of the fields that are chosen from a list."""


def values(field: str) -> tuple[Any, ...]:
    """What a field may be, in the recipe's own order."""
    annotation = Quantization.model_fields[field].annotation
    return (False, True) if annotation is bool else get_args(annotation)


def said(quantization: Quantization) -> str:
    """A quantization's method in a few words, its usual choices left out: ``GPTQ, affine, biases``."""
    shown = [WORDS["method"][quantization.method].label]
    for field in ("scheme", "correction"):
        value = getattr(quantization, field)
        if value != Quantization.model_fields[field].default:
            shown.append(WORDS[field][value].label)
    return ", ".join(shown)


def refused(bench: Bench, recipe: Recipe) -> dict[str, dict[Any, str]]:
    """What this bench cannot do, by field and value, with the reason: all else of the recipe as it is."""
    reasons: dict[str, dict[Any, str]] = {field: {} for field in WORDS}
    # layers that are set apart change nothing here, and a model may have hundreds
    bare = recipe.replace(finetuning=None, quantization=recipe.quantization.replace(layers={}))
    for field in WORDS:
        for value in values(field):
            try:
                bench.check(bare.replace(quantization=bare.quantization.replace(**{field: value})))
            except WorkbenchError as error:
                reasons[field][value] = str(error)
    return reasons
