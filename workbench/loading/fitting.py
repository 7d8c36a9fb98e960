"""Putting a checkpoint's tensors into a model: everything is checked first, so it is filled whole or not at all."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from workbench.errors import LoadError

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put before every name: DataParallel, torch.compile, Lightning."""
NESTS = ("state_dict", "model_state_dict", "model", "model_state", "net", "weights", "params", "ema", "state_dict_ema")
"""Where training scripts put the weights, the likeliest first."""
_SHOWN = 5

Tensors = dict[str, torch.Tensor]


def fit(model: nn.Module, checkpoint: Mapping[str, Any], source: str) -> nn.Module:
    """Fill `model` in place with a checkpoint's weights and put it into evaluation mode.

    Nested dicts are searched and wrappers' prefixes are taken off where that makes more names fit. Shared
    weights may be in the checkpoint under one of their names. A model on the meta device gets memory here.

    Args:
        model: Any module whose lazy layers were run once.
        checkpoint: Tensors by name, or dicts of these.
        source: The file's name, for the error.

    Raises:
        LoadError: Names are missing or too many, shapes or kinds differ; the model is then as it was.
    """
    lazy = [name for name, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise LoadError(
            f"The model has lazy layers whose shapes are not known yet ({', '.join(lazy[:_SHOWN])}). "
            "Run it once on an example, model(example), and load then."
        )
    targets = {name: t for name, t in model.state_dict(keep_vars=True).items() if isinstance(t, torch.Tensor)}
    tensors = _best(checkpoint, targets)
    if not tensors:
        held = ", ".join(map(repr, list(checkpoint)[:_SHOWN])) or "nothing"
        raise LoadError(f"{source} holds no tensors by name (it has {held}); a state dict was expected.")
    problems = list(_problems(targets, tensors))
    if problems:
        raise LoadError(f"{source} does not fit the {type(model).__name__}: " + " ".join(problems))
    _fill(model, targets, tensors, source)
    return model.eval()


def _best(checkpoint: Mapping[str, Any], targets: Tensors) -> Tensors:
    """The reading of a checkpoint of which the most tensors have a place."""
    best: Tensors = {}
    most = -1
    for candidate in _readings(checkpoint):
        fitting = sum(name in targets and targets[name].shape == t.shape for name, t in candidate.items())
        if fitting > most:
            best, most = candidate, fitting
    return best


def _readings(checkpoint: Mapping[str, Any], depth: int = 0) -> Iterator[Tensors]:
    own = {name: value for name, value in checkpoint.items() if isinstance(value, torch.Tensor)}
    while own:
        yield own
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in own)), None)
        if prefix is None:
            yield from _partly_stripped(own)
            break
        own = {name.removeprefix(prefix): value for name, value in own.items()}
    if depth < 3:
        for nest in [*NESTS, *(name for name in checkpoint if name not in NESTS)][:50]:
            if isinstance(checkpoint.get(nest), Mapping):
                yield from _readings(checkpoint[nest], depth + 1)


def _partly_stripped(own: Tensors) -> Iterator[Tensors]:
    """Lightning keeps a loss's or a metric's tensors beside ``model.``; the others are dropped then."""
    for prefix in PREFIXES:
        inside = {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
        if inside:
            yield inside


def _problems(targets: Tensors, tensors: Tensors) -> Iterator[str]:
    present = {id(targets[name]) for name in tensors if name in targets}
    missing = [
        name
        for name, target in targets.items()
        if name not in tensors and id(target) not in present and not name.endswith("num_batches_tracked")
    ]
    extra = [name for name in tensors if name not in targets]
    wrong = [name for name in tensors if name in targets and tensors[name].shape != targets[name].shape]
    kinds = [
        name
        for name in tensors
        if name in targets
        and (tensors[name].is_floating_point(), tensors[name].is_complex())
        != (targets[name].is_floating_point(), targets[name].is_complex())
    ]
    if missing:
        lines = [
            f"{name} {_shape(targets[name])}{_hint(name, targets[name], tensors, extra)}" for name in missing[:_SHOWN]
        ]
        yield f"{_count(missing, 'weight')} missing: {'; '.join(lines)}{_more(missing)}."
    if wrong:
        lines = [f"{name} is {_shape(tensors[name])}, the model has {_shape(targets[name])}" for name in wrong[:_SHOWN]]
        yield f"{_count(wrong, 'shape')} wrong: {'; '.join(lines)}{_more(wrong)}."
    if kinds:
        lines = [f"{name} is {tensors[name].dtype}, the model has {targets[name].dtype}" for name in kinds[:_SHOWN]]
        yield f"{_count(kinds, 'data type')} wrong: {'; '.join(lines)}{_more(kinds)}."
    if extra:
        lines = [f"{name} {_shape(tensors[name])}" for name in extra[:_SHOWN]]
        yield f"{_count(extra, 'tensor')} without a place in the model: {', '.join(lines)}{_more(extra)}."
    if (missing or wrong) and not (extra and not missing):
        yield "Pass the class and arguments that the weights were trained with."


def _count(names: list[str], noun: str) -> str:
    return f"{len(names)} {noun}{'s are' if len(names) > 1 else ' is'}"


def _more(names: list[str]) -> str:
    return f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""


def _shape(tensor: torch.Tensor) -> str:
    return "[" + ", ".join(map(str, tensor.shape)) + "]"


def _hint(name: str, target: torch.Tensor, tensors: Tensors, extra: list[str]) -> str:
    """The extra tensor that may have been meant: of the same shape, with the most similar name."""
    alike = [other for other in extra[:1000] if len(other) < 200 and tensors[other].shape == target.shape]
    close = difflib.get_close_matches(name, alike, n=1, cutoff=0.4)
    same_end = [other for other in alike if other.endswith("." + name) or name.endswith("." + other)]
    best = (same_end or close or [""])[0]
    return f" (the file has {best!r} of the same shape)" if best else ""


def _fill(model: nn.Module, targets: Tensors, tensors: Tensors, source: str) -> None:
    stranded = [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in targets]
    if stranded:
        raise LoadError(
            f"The model is on the meta device, and no checkpoint holds its buffers {', '.join(stranded[:_SHOWN])} "
            f"({source} neither). Build it on the CPU."
        )
    homes = {id(target): target for target in targets.values()}
    for target in targets.values():
        if target.is_meta and homes[id(target)] is target:
            homes[id(target)] = _on_cpu(target)
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            tensors_here: dict[str, Any] = held
            for name, tensor in tensors_here.items():
                if tensor is not None and tensor.is_meta:
                    tensors_here[name] = homes[id(tensor)]
    with torch.no_grad():
        for name, tensor in tensors.items():
            homes[id(targets[name])].copy_(tensor)


def _on_cpu(target: torch.Tensor) -> torch.Tensor:
    empty = torch.zeros_like(target, device="cpu")
    return nn.Parameter(empty, requires_grad=target.requires_grad) if isinstance(target, nn.Parameter) else empty
