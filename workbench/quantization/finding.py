"""Finding what of a model can be put on grids: every weight of a product, whichever module or function uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from workbench.inputs import Inputs
from workbench.layers import SUM, Layer, LeftAlone
from workbench.passes import run_once
from workbench.quantization.attention import OPERANDS, SplitAttention
from workbench.quantization.sums import OPERANDS as ADDENDS
from workbench.quantization.sums import Sum

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TABLES = (nn.Embedding, nn.EmbeddingBag)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
QUANTIZABLE = (*CONVOLUTIONS, *TRANSPOSED, *TABLES, *RECURRENT, nn.Linear)

# functions that multiply by a weight, with the place of the weight and of the other operand
PRODUCTS: dict[Callable[..., Any], tuple[int, int]] = {
    **dict.fromkeys((F.linear, F.conv1d, F.conv2d, F.conv3d), (1, 0)),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), (1, 0)),
    **dict.fromkeys(
        (torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__), (1, 0)
    ),
    **dict.fromkeys((torch.addmm, Tensor.addmm), (2, 1)),
}
# arguments of these as they can be named
NAMED: dict[Callable[..., Any], tuple[str, ...]] = {
    **dict.fromkeys((F.linear, F.conv1d, F.conv2d, F.conv3d), ("input", "weight", "bias")),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), ("input", "weight", "bias")),
    torch.matmul: ("input", "other"),
    torch.mm: ("input", "mat2"),
    torch.bmm: ("input", "mat2"),
    torch.addmm: ("input", "mat1", "mat2"),
}
CHANNELS_FIRST = (F.linear, F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED_PRODUCTS = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

NOT_REACHED = "the calibration data does not reach it"


def find_layers(model: nn.Module, example: Inputs) -> tuple[dict[str, Layer], tuple[LeftAlone, ...]]:
    """All that can be quantized, and what is left alone, in the order of the module tree.

    The model is run once: products by parameters that a function reads, past any module, show themselves there.

    Args:
        model: In evaluation mode.
        example: A batch.
    """
    state = {id(tensor): name for name, tensor in (*model.named_buffers(), *model.named_parameters())}
    found: dict[int, Layer] = {}  # by the weight's identity: a tied one is one layer
    for name, module in model.named_modules():
        for layer in _of_module(name, module):
            key = id(layer if layer.weight is None else layer.weight)
            known = found.get(key)
            if known is not None:
                open_ = known.activations and layer.activations
                found[key] = replace(
                    known, sites=(*known.sites, *layer.sites), activations=open_, bias=None, bias_name=""
                )
            elif layer.weight is None or (key in state and layer.weight.numel()):
                found[key] = replace(layer, weight_name=state.get(key, ""), bias_name=state.get(id(layer.bias), ""))
    reached, products = _run(model, found, example)
    around = _shortcuts(model, example)
    for layer in products:
        known = found.get(id(layer.weight))
        # the module's name, and what the function tells beside it; a bias of one place is not that of the other
        found[id(layer.weight)] = (
            replace(known, functional=True, activations="", bias=None, bias_name="") if known else layer
        )
    layers = {}
    for own in found.values():
        layer = replace(own, shortcut=own.name in around) if own.kind == SUM else own
        used = layer.functional or not layer.sites or reached.intersection(layer.sites)
        # where no module call reaches it, another module's code may read the weight itself
        layers[layer.name] = (
            layer if used else replace(layer, functional=True, activations=layer.activations or NOT_REACHED)
        )
    return layers, tuple(_left_alone(model, layers))


def _of_module(name: str, module: nn.Module) -> Iterator[Layer]:
    """The layers of one module; their names in the state are for `find_layers` to add, which knows the aliases."""
    kind = type(module).__name__
    if isinstance(module, RECURRENT):
        for parameter, weight in module.named_parameters(recurse=False):
            if parameter.startswith("weight_ih"):
                first = parameter in ("weight_ih", "weight_ih_l0")
                reason = "" if first else f"only the input of the whole {kind} is rounded"
            elif parameter.startswith(("weight_hh", "weight_hr")):
                reason = f"the state inside the {kind} stays in floating point"
            else:
                continue
            yield Layer(f"{name}.{parameter}", kind, weight=weight, sites=(name,), activations=reason)
    elif isinstance(module, QUANTIZABLE) and isinstance(getattr(module, "weight", None), Tensor):
        bias = getattr(module, "bias", None)
        table = isinstance(module, TABLES)
        changing = table and module.max_norm is not None
        yield Layer(
            name,
            "Linear" if kind == "NonDynamicallyQuantizableLinear" else kind,
            weight=module.weight,  # type: ignore[arg-type]
            bias=bias if isinstance(bias, Tensor) else None,
            axis=1 if isinstance(module, TRANSPOSED) else 0,
            sites=(name,),
            weights="max_norm changes them at every call" if changing else "",
            activations="its input is indices" if table else "",
        )
    elif isinstance(module, SplitAttention):
        for operand in OPERANDS:
            site = f"{name}.{operand}"
            yield Layer(site, "MatMul operand", sites=(site,), weights="a product of activations", by_name_only=True)
    elif isinstance(module, Sum):
        for operand in ADDENDS:
            site = f"{name}.{operand}"
            yield Layer(site, SUM, sites=(site,), weights="a sum of activations", by_name_only=True)


class ProductMode(TorchFunctionMode):
    """Hears of every product with a parameter that a function, not a known module, multiplies by."""

    def __init__(self, hear: Callable[[Callable[..., Any], Tensor, Tensor, Sequence[Any]], Tensor]) -> None:
        """
        Args:
            hear: Takes the function, the weight operand, the other operand and all arguments; returns what
                takes the other operand's place.
        """
        super().__init__()
        self._hear = hear

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every function of a tensor."""
        places = PRODUCTS.get(func)
        if places is not None and kwargs and func in NAMED:
            named = dict(kwargs)
            args = (*args, *(named.pop(n) for n in NAMED[func][len(args) : max(places) + 1] if n in named))
            kwargs = named
        if places is not None and len(args) > max(places):
            given = list(args)
            for weight, other in (places, places[::-1]) if func not in CHANNELS_FIRST else (places,):
                if isinstance(args[weight], Tensor) and isinstance(args[other], Tensor):
                    given[other] = self._hear(func, args[weight], args[other], args)
            args = given
        return func(*args, **(kwargs or {}))


def storage(tensor: Tensor) -> int:
    """What a tensor shares with its views."""
    return tensor.untyped_storage().data_ptr()


@torch.no_grad()
def _run(model: nn.Module, known: Mapping[int, Layer], example: Inputs) -> tuple[set[str], list[Layer]]:
    names = {
        storage(parameter): (name, parameter) for name, parameter in model.named_parameters() if parameter.dim() >= 2
    }
    sites: dict[str, set[int]] = {}
    """Storages that a module multiplies by itself."""
    for layer in known.values():
        for site in layer.sites:
            sites.setdefault(site, set()).update(() if layer.weight is None else (storage(layer.weight),))
    products: dict[str, Layer] = {}
    reached: set[str] = set()
    inside: list[str] = []

    def enter(name: str) -> None:
        reached.add(name)
        inside.append(name)

    def leave(*_: object) -> None:
        inside.pop()

    def hear(func: Callable[..., Any], weight: Tensor, other: Tensor, args: Sequence[Any]) -> Tensor:
        own = any(storage(weight) in sites[site] for site in inside)
        if storage(weight) in names and weight.is_floating_point() and not own:
            name, parameter = names[storage(weight)]
            bias = args[2] if func in (*CHANNELS_FIRST, *TRANSPOSED_PRODUCTS) and len(args) > 2 else None
            told = next((n for n, p in model.named_parameters() if p is bias), "") if bias is not None else ""
            axis = _output_axis(func, parameter, weight)
            products.setdefault(
                name,
                Layer(
                    name,
                    func.__name__.strip("_"),
                    name,
                    parameter,
                    told,
                    bias if told else None,
                    axis,
                    functional=True,
                ),
            )
        return other

    hooks = []
    for name, module in model.named_modules():
        if name in sites:
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
            hooks.append(module.register_forward_hook(leave))
    with ProductMode(hear):
        run_once(model, example, hooks)
    return reached, list(products.values())


@torch.no_grad()
def _shortcuts(model: nn.Module, example: Inputs) -> set[str]:
    """Operands of sums that go around the layer whose output is added; a sum without such a layer has none."""
    sums = {name: module for name, module in model.named_modules() if isinstance(module, Sum)}
    if not sums:
        return set()
    made: dict[int, Tensor] = {}  # held, so that a tensor's identity is not given to another
    reads: dict[int, int] = {}
    added: list[tuple[str, Sequence[Tensor]]] = []

    def before(_: nn.Module, args: Sequence[Any]) -> None:
        for value in args:
            if id(value) in made:
                reads[id(value)] = reads.get(id(value), 0) + 1

    def after(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = output

    hooks = []
    for module in model.modules():
        if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    for name, module in sums.items():
        hooks.append(module.register_forward_pre_hook(before))
        hooks.append(module.register_forward_pre_hook(lambda _, args, n=name: added.append((n, args))))
    run_once(model, example, hooks)
    around: dict[str, set[str]] = {}
    for name, operands in added:
        ends = [at for at, each in enumerate(operands) if id(each) in made and reads[id(each)] == 1]
        # of two, a runtime merges the first
        others = {f"{name}.{operand}" for at, operand in enumerate(ADDENDS) if ends and at != ends[0]}
        around[name] = around.get(name, others) & others
    return set().union(*around.values())


def _output_axis(func: Callable[..., Any], parameter: Tensor, operand: Tensor) -> int | None:
    """The parameter's axis that becomes the product's channels, also where a transposed view is multiplied."""
    if func in TRANSPOSED_PRODUCTS:
        return 1
    at = 0 if func in CHANNELS_FIRST else operand.dim() - 1
    if operand.dim() != parameter.dim():
        return None
    same = [
        axis
        for axis in range(parameter.dim())
        if parameter.stride(axis) == operand.stride(at) and parameter.shape[axis] == operand.shape[at]
    ]
    return same[0] if len(same) == 1 else None


def _left_alone(model: nn.Module, layers: Mapping[str, Layer]) -> Iterator[LeftAlone]:
    taken = {
        storage(tensor) for layer in layers.values() for tensor in (layer.weight, layer.bias) if tensor is not None
    }
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if storage(p) not in taken]
        if not own or isinstance(module, QUANTIZABLE):
            continue
        kind = type(module).__name__
        normalises = "norm" in kind.lower() and all(p.dim() == 1 for p in own)
        reason = (
            "normalisation: its few parameters stay in floating point"
            if normalises
            else "no product that is known here multiplies by its parameters"
        )
        yield LeftAlone(name or kind, kind, reason)
