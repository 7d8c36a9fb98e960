"""A private copy of a model in the form in which it is quantized and shipped.

The copy computes what the model computes in evaluation mode, and has nothing between a product and its
grid: BatchNorm is folded into the layer before it, joint attention projections are Linear layers,
re-parametrised weights are plain ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import fusion, parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from workbench.errors import WorkbenchError
from workbench.form import Folded, Form, Normed
from workbench.inputs import Inputs
from workbench.outputs import Output, selected
from workbench.passes import run_once
from workbench.quantization.attention import SplitAttention
from workbench.quantization.finding import CONVOLUTIONS, QUANTIZABLE, TRANSPOSED
from workbench.randomness import seeded
from workbench.tracing import running
from workbench.twins import exchange, twin

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
TOLERANCE = 1e-3
"""Of the output's standard deviation: folding changes the order of roundings, and nothing else."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """The copy."""

    module: nn.Module
    original: nn.Module
    """The copy before anything was rewritten; tensors that did not change are shared."""
    form: Form
    """How the copy's state is that of the original."""


def prepared(model: nn.Module, example: Inputs, output: Output = None) -> Prepared:
    """Copy and rewrite a model.

    Args:
        model: Left as it is.
        example: A batch that it can take; what is rewritten is checked with it.
        output: Which part of the model's output counts.

    Raises:
        WorkbenchError: The model cannot be copied or does not run on the example.
    """
    original, normed = _copied(model)
    module = twin(original)
    wanted = outputs_of(module, example, output)
    joined = _split_attention(module)
    folded: dict[str, Folded] = {}
    for layer, norm in _followers(module, example):
        folded |= _fold(module, layer, norm)
    if (folded or joined) and not agrees(module, example, output, wanted):
        # one rewrite at a time, and only those that change nothing
        module, folded, joined = _carefully(original, example, output, wanted)
    root = "model." if isinstance(module, _Root) else ""
    return Prepared(module, original, Form(root, folded=folded, joined=joined, normed=normed))


def _copied(model: nn.Module) -> tuple[nn.Module, dict[str, Normed]]:
    if isinstance(model, torch.jit.ScriptModule):
        raise WorkbenchError(
            "This is a TorchScript module, whose layers cannot be exchanged. Pass the module that it was made from, "
            "with its weights: `model.load_state_dict(scripted.state_dict())`."
        )
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(parameter, UninitializedParameter | UninitializedBuffer):
            raise WorkbenchError(
                f"{name} has no shape yet: the model has a lazy layer. Run it once on a batch, then pass it here."
            )
        if parameter.device.type == "meta":
            raise WorkbenchError(
                f"{name} is on the meta device and holds no values. Load a checkpoint, or use `model.to_empty('cpu')` "
                "and initialise it."
            )
    try:
        made = copy.deepcopy(model, _with_history(model))
    except Exception as error:  # whatever a module's own attributes raise
        raise WorkbenchError(
            f"The model cannot be copied ({type(error).__name__}: {error}), and the one that was given is never "
            "changed. Look for attributes that hold tensors with a gradient history, files or locks."
        ) from error
    made = made.to("cpu").eval().requires_grad_(False)
    if any(p.dtype in (torch.float16, torch.bfloat16, torch.float64) for p in made.parameters()):
        made = made.float()
    if isinstance(made, (*QUANTIZABLE, nn.MultiheadAttention)):
        made = _Root(made)
    normed = dict(_plain(made))
    return made.requires_grad_(False), normed


def _with_history(model: nn.Module) -> dict[int, Tensor]:
    """For a deep copy, what it refuses: tensors that modules computed and kept, as weight normalisation does."""
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }


def _plain(model: nn.Module) -> Iterator[tuple[str, Normed]]:
    """Makes re-parametrised weights plain parameters, and says how those of a weight normalisation were held."""
    for path, module in list(model.named_modules()):
        prefix = f"{path}." if path else ""
        if parametrize.is_parametrized(module):
            # torch's own `remove_parametrizations` changes the class, which the given model has as well
            steps = dict(module.parametrizations.items())
            values = {name: getattr(module, name).detach().clone() for name in steps}
            del module._modules["parametrizations"]
            module.__class__ = type(module).__bases__[0]
            for name, value in values.items():
                setattr(module, name, nn.Parameter(value, requires_grad=False))
                if len(steps[name]) == 1 and isinstance(steps[name][0], parametrizations._WeightNorm):
                    held = f"{prefix}parametrizations.{name}.original"
                    yield f"{prefix}{name}", Normed(f"{held}0", f"{held}1", steps[name][0].dim)
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, WeightNorm):
                yield f"{prefix}{hook.name}", Normed(f"{prefix}{hook.name}_g", f"{prefix}{hook.name}_v", hook.dim)
            if isinstance(hook, WeightNorm | SpectralNorm):
                hook.remove(module)
                del module._forward_pre_hooks[key]


class _Root(nn.Module):
    """Gives a name to a model that is a single layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


@torch.inference_mode()
def outputs_of(module: nn.Module, example: Inputs, output: Output) -> Tensor:
    """What a model gives for an example.

    Raises:
        WorkbenchError: It does not run.
    """
    with running(), seeded():
        try:
            return selected(example.call(module), output).clone()
        except WorkbenchError:
            raise
        except Exception as error:  # anything can happen in a model's own code
            raise WorkbenchError(
                f"The model does not run on {example!r}: {type(error).__name__}: {str(error).strip()[:300]}"
            ) from error


def agrees(module: nn.Module, example: Inputs, output: Output, wanted: Tensor) -> bool:
    """Whether a rewritten model gives what it gave before, up to the order of roundings."""
    try:
        found = outputs_of(module, example, output)
    except WorkbenchError:
        return False
    if not wanted.is_floating_point():
        return torch.equal(found, wanted)
    known = wanted[wanted.isfinite()]  # a model whose output holds NaN is copied like any other, and warned of later
    spread = float(known.std()) if known.numel() > 1 else 0.0
    allowed = TOLERANCE * max(spread, float(known.abs().mean()) if known.numel() else 0.0, 1e-6)
    return found.shape == wanted.shape and bool(torch.allclose(found, wanted, rtol=1e-3, atol=allowed, equal_nan=True))


def _carefully(
    original: nn.Module, example: Inputs, output: Output, wanted: Tensor
) -> tuple[nn.Module, dict[str, Folded], dict[str, tuple[str, ...]]]:
    module = twin(original)
    joined = _split_attention(module)
    if joined and not agrees(module, example, output, wanted):
        module, joined = twin(original), {}
    folded: dict[str, Folded] = {}
    for layer, norm in _followers(module, example):
        before = module.get_submodule(layer), module.get_submodule(norm)
        told = _fold(module, layer, norm)
        if agrees(module, example, output, wanted):
            folded |= told
        else:
            for name, old in zip((layer, norm), before, strict=True):
                exchange(module, module.get_submodule(name), old)
    return module, folded, joined


def _split_attention(module: nn.Module) -> dict[str, tuple[str, ...]]:
    joined: dict[str, tuple[str, ...]] = {}
    for name, attention in list(module.named_modules(remove_duplicate=False)):
        if type(attention) is not nn.MultiheadAttention:
            continue
        exchange(module, attention, SplitAttention(attention))
        for encoder in module.modules():
            if isinstance(encoder, nn.TransformerEncoder):
                encoder.use_nested_tensor = False  # else it would look for the joint weights
        projections = [f"{name}.{part}_proj" for part in "qkv"]
        if attention.in_proj_weight is not None:
            joined[f"{name}.in_proj_weight"] = tuple(f"{p}.weight" for p in projections)
        else:
            joined |= {f"{p}_weight": (f"{p}.weight",) for p in projections}
        if attention.in_proj_bias is not None:
            joined[f"{name}.in_proj_bias"] = tuple(f"{p}.bias" for p in projections)
    return joined


@torch.inference_mode()
def _followers(module: nn.Module, example: Inputs) -> list[tuple[str, str]]:
    """Layers whose very output goes into a BatchNorm, each run once; whether it goes elsewhere too, a check finds."""
    names = {m: name for name, m in module.named_modules() if name}
    made: dict[str, Tensor] = {}  # held, so that a tensor's identity is not given to another
    runs: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def after(layer: nn.Module, _: object, output: object) -> None:
        name = names[layer]
        runs[name] = runs.get(name, 0) + 1
        if isinstance(output, Tensor):
            made[name] = output

    def before(norm: nn.Module, args: tuple[object, ...]) -> None:
        name = names[norm]
        runs[name] = runs.get(name, 0) + 1
        pairs.extend((layer, name) for layer, output in made.items() if args and args[0] is output)

    kinds = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
    hooks = [m.register_forward_hook(after) for m in names if isinstance(m, kinds)]
    hooks += [m.register_forward_pre_hook(before) for m in names if isinstance(m, NORMS)]
    run_once(module, example, hooks)
    held = [id(p) for m in names for p in m._parameters.values() if p is not None]

    def can_fold(layer: str, norm: str) -> bool:
        first, second = module.get_submodule(layer), module.get_submodule(norm)
        return (
            runs[layer] == runs[norm] == 1
            and second.running_mean is not None
            and not (isinstance(first, nn.Linear) and made[layer].dim() != 2)  # it would be along another axis
            and type(first) in kinds
            and held.count(id(first.weight)) == 1  # a tied weight must stay what it is
        )

    return [pair for pair in pairs if can_fold(*pair)]


def _fold(module: nn.Module, layer: str, norm: str) -> dict[str, Folded]:
    """Folds in place, and tells it for each of the norm's names."""
    before, after = module.get_submodule(layer), module.get_submodule(norm)
    if isinstance(before, nn.Linear):
        fused: nn.Module = fusion.fuse_linear_bn_eval(before, after)  # type: ignore[arg-type]
    elif isinstance(before, TRANSPOSED):
        fused = _fused_transposed(before, after)  # type: ignore[arg-type]
    else:
        fused = fusion.fuse_conv_bn_eval(before, after)  # type: ignore[arg-type, type-var]
    names = [name for name, each in module.named_modules(remove_duplicate=False) if each is after]
    exchange(module, before, fused.requires_grad_(False))
    exchange(module, after, nn.Identity())
    new_bias = f"{layer}.bias" if before.bias is None else ""
    told = Folded(after.num_features, after.eps, after.affine, new_bias)  # type: ignore[arg-type]
    return dict.fromkeys(names, told)


def _fused_transposed(conv: nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> nn.Module:
    """As `fusion.fuse_conv_bn_eval`, which does not know the groups of transposed convolutions."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("the norm has no statistics")
    scale, shift, bias = norm.weight, norm.bias, conv.bias
    factor = torch.rsqrt(variance + norm.eps) * (1 if scale is None else scale)
    made = copy.deepcopy(conv)
    # weight: (inputs, outputs / groups, ...)
    each = factor.view(conv.groups, 1, -1, *(1,) * (conv.weight.dim() - 2))
    made.weight = nn.Parameter((conv.weight.unflatten(0, (conv.groups, -1)) * each).flatten(0, 1))
    start = -mean if bias is None else bias - mean
    made.bias = nn.Parameter(start * factor + (0 if shift is None else shift))
    return made
