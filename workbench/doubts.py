"""Signs that a measurement would mislead: inputs, outputs and accuracies that do not look right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workbench.inputs import Inputs
from workbench.network import Network
from workbench.outputs import selected
from workbench.passes import run_once
from workbench.quantization.preparation import NORMS
from workbench.randomness import seeded
from workbench.report import Estimate, MetricInfo
from workbench.task import Task
from workbench.tracing import running

FAR = 2.0
"""Factor between the spread that arrives at a BatchNorm and the one it remembers, above which inputs look wrong."""
WORSE = 0.1
"""Accuracy below the checkpoint's own word, beyond the interval, that is worth a warning."""


def expectations(model: nn.Module) -> dict[str, Any]:
    """What a checkpoint says of itself: timm's and our own ``pretrained_cfg``, and the state that it came in."""
    told = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    told = dict(told) if isinstance(told, Mapping) else {}
    kept = {key: told[key] for key in ("mean", "std", "top1", "input_size") if key in told}
    return {
        **kept,
        "training": model.training
        and any(isinstance(m, nn.Dropout | nn.modules.batchnorm._BatchNorm) for m in model.modules()),
    }


@torch.inference_mode()
def about_outputs(network: Network, batch: Inputs) -> Iterator[str]:
    """Outputs that cannot be compared example by example."""
    first, second = (_drawn(network, batch, seed) for seed in (0, 1))
    if first.is_floating_point() and not torch.isfinite(first).all():
        yield (
            "The model's fp32 output holds NaN or infinity. Look at its weights and inputs first: no comparison "
            "says anything before that."
        )
        return
    if not torch.equal(first, second):
        yield "Two runs over the same batch differ: the model draws random numbers, and differences hold their noise."
    if len(first) != len(batch) or not first.is_floating_point():
        return
    alone = torch.cat([network.call(batch[index : index + 1]) for index in range(len(batch))])
    allowed = 1e-3 * float(first.abs().max()) + 1e-6
    if alone.shape == first.shape and not torch.allclose(alone, first, rtol=1e-2, atol=allowed):
        yield "An example's output depends on the others in its batch, so scores per example depend on the batches."


def _drawn(network: Network, batch: Inputs, seed: int) -> Tensor:
    """The output with the random numbers of a seed, if the model draws any."""
    with running(), seeded(seed):
        return selected(batch.call(network.module), network.output)


@torch.inference_mode()
def about_inputs(network: Network, task: Task, told: Mapping[str, Any]) -> Iterator[str]:
    """Inputs that do not look as the first layers expect them."""
    if told.get("training"):
        yield "The model was in training mode; it is measured in evaluation mode, without dropout."
    sample = task.calibration.cycled(min(16, len(task.calibration))).channels_last()
    images = next((tensor for tensor in sample.tensors if tensor.dim() == 4 and tensor.is_floating_point()), None)
    if images is None:
        return
    expected = ""
    if told.get("mean") is not None and told.get("std") is not None:
        mean, std = (", ".join(f"{x:.3g}" for x in told[key]) for key in ("mean", "std"))
        expected = (
            f" The checkpoint expects (x − mean) / std with mean ({mean}) and std ({std}) for pixels from 0 to 1."
        )
    low, high = float(images.min()), float(images.max())
    ratio = _spread_at_first_norm(network.original, sample)
    if high > 32:
        yield f"Pixels go from {low:.3g} to {high:.3g}: they look as if they were not normalised.{expected}"
    elif ratio is not None and not 1 / FAR <= ratio <= FAR:
        more = f"{ratio:.1f} times" if ratio >= 1 else f"only {ratio:.2f} times"
        yield (
            f"What arrives at the first BatchNorm spreads {more} as much as in training (pixels go from {low:.3g} to "
            f"{high:.3g}): the normalisation of the inputs is probably another one.{expected}"
        )
    elif expected and _unlike(images, told):
        yield f"Pixels go from {low:.3g} to {high:.3g}, which does not look like that.{expected}"
    size = told.get("input_size")
    if size is not None and len(size) == 3 and tuple(images.shape[1:]) != tuple(size):
        yield f"Images have shape {tuple(images.shape[1:])}; the checkpoint was trained on {tuple(size)}."


def _spread_at_first_norm(model: nn.Module, sample: Inputs) -> float | None:
    """Median over channels of the standard deviation that arrives, over the one that is remembered."""
    norm = next((m for m in model.modules() if isinstance(m, NORMS) and m.running_var is not None), None)
    if norm is None:
        return None
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    run_once(model, sample, [hook])
    if not seen:
        return None
    x = seen[0].float().transpose(0, 1).flatten(1)
    remembered = norm.running_var.sqrt()  # type: ignore[union-attr]
    living = remembered > 1e-3 * remembered.max()  # channels that are always zero say nothing
    return float((x.std(1) / remembered)[living].median())


def _unlike(images: Tensor, told: Mapping[str, Any]) -> bool:
    """Whether pixels leave the range that normalisation can give, or stay in 0 to 1 where it goes below 0."""
    mean, std = (torch.tensor(told[key], dtype=torch.float32).reshape(-1) for key in ("mean", "std"))
    least, most = float((-mean / std).min()), float(((1 - mean) / std).max())
    low, high = float(images.min()), float(images.max())
    slack = 0.05 * (most - least)
    outside = low < least - slack or high > most + slack
    return outside or (low >= 0 and least < -0.5 and high <= 1.001)


def about_accuracy(
    accuracy: Estimate, metric: MetricInfo, task: Task, examples: int, told: Mapping[str, Any]
) -> Iterator[str]:
    """An fp32 accuracy at chance, or far below what the checkpoint says of itself."""
    if task.targets is None or not metric.counted or not task.classes:
        return
    chance = 1 / len(task.classes)
    hint = "Look at the normalisation of the inputs and the order of the classes."
    top1 = told.get("top1")
    if examples >= 10 and accuracy.low <= chance * 1.5 and len(task.classes) > 1 and accuracy.value < 0.5:
        yield f"The fp32 model is right for {accuracy.value:.1%} of {examples:,} examples, nearly chance. {hint}"
    elif isinstance(top1, int | float) and accuracy.high < top1 / (100 if top1 > 1 else 1) - WORSE:
        said = top1 / (100 if top1 > 1 else 1)
        yield f"The fp32 model reaches {accuracy.value:.1%} here; its checkpoint says {said:.1%}. {hint}"
