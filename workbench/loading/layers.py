"""Makes the layers of an operator graph visible: ``aten.linear`` on a parameter becomes an `nn.Linear` that owns it.

Quantization, folding and the tables look for modules. A graph from `torch.export` has only calls on
parameters, and the parameters' names still say where the modules were: a convolution on
``features.0.weight`` becomes the module ``features.0``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

_aten = torch.ops.aten
_CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    _aten.conv1d.default: nn.Conv1d,
    _aten.conv2d.default: nn.Conv2d,
    _aten.conv3d.default: nn.Conv3d,
    _aten.conv1d.padding: nn.Conv1d,
    _aten.conv2d.padding: nn.Conv2d,
    _aten.conv3d.padding: nn.Conv3d,
    _aten.conv_transpose1d.default: nn.ConvTranspose1d,
    _aten.conv_transpose2d.input: nn.ConvTranspose2d,
    _aten.conv_transpose3d.input: nn.ConvTranspose3d,
}
_BY_RANK = {3: (nn.Conv1d, nn.ConvTranspose1d), 4: (nn.Conv2d, nn.ConvTranspose2d), 5: (nn.Conv3d, nn.ConvTranspose3d)}
_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@dataclass
class _Layer:
    """A module in the place of a call, before it has its final name."""

    module: nn.Module
    weight: str
    """The name of the parameter that names the layer."""
    inputs: tuple[Any, ...]
    key: tuple[Any, ...]
    """Calls with equal keys are one module, called several times."""
    outputs: dict[int, tuple[int, ...]] | None = None
    """For an operator that returns several tensors: where its module returns each."""
    temporary: str = ""
    nodes: list[fx.Node] = field(default_factory=list)


def expose_layers(module: fx.GraphModule, aliases: Mapping[str, Sequence[str]] | None = None) -> fx.GraphModule:
    """A graph module that computes the same, in which layers with parameters are modules.

    Weights are not copied; a weight that several layers share stays shared. Calls that fit no module (a
    computed weight, a custom padding) stay as they are.

    Args:
        module: Its graph fetches parameters by ``get_attr`` and calls ``aten`` operators. A node's
            ``meta["scope"]`` may say which module of the original it was in.
        aliases: All names of a parameter that has several. The graph uses one of them for every layer that
            shares it; the scope says which layer is meant.
    """
    graph, layers = module.graph, dict[tuple[Any, ...], _Layer]()
    for node in list(graph.nodes):
        layer = _layer(module, node)
        if layer is None:
            continue
        first = layers.setdefault(layer.key, layer)
        temporary = first.temporary = first.temporary or f"exposed_layer_{len(layers)}"
        module.add_module(temporary, first.module)  # under its final name once it is known what else stays
        with graph.inserting_before(node):
            call = graph.create_node("call_module", temporary, layer.inputs)
        call.meta["scope"] = node.meta.get("scope")
        first.nodes.append(call)
        if layer.outputs is None:
            node.replace_all_uses_with(call)
        else:
            _redirect(graph, node, call, layer.outputs)
        graph.erase_node(node)
    _drop_identities(graph)
    graph.eliminate_dead_code()
    parts: dict[str, Any] = {
        str(node.target): _get(module, str(node.target)) for node in graph.nodes if node.op == "get_attr"
    }
    alive = set(graph.nodes)
    for layer in layers.values():
        if any(node in alive for node in layer.nodes):
            names = [_layer_name(name) for name in (aliases or {}).get(layer.weight, [layer.weight])]
            scope = layer.nodes[0].meta.get("scope")
            name = _free(scope if scope in names else _layer_name(layer.weight), parts)
            parts[name] = layer.module
            for node in layer.nodes:
                node.target = name
                node._rename(name.replace(".", "_"))
    exposed = fx.GraphModule(parts, graph)
    exposed.graph.lint()
    return exposed


def _layer(module: fx.GraphModule, node: fx.Node) -> _Layer | None:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    make = _MAKERS.get(node.target)
    if make is None:
        return None
    named = {argument.name: argument.default_value for argument in node.target._schema.arguments}
    named |= dict(zip(named, node.args, strict=False)) | node.kwargs
    return make(module, node, named)


def _held(module: fx.GraphModule, value: Any) -> Any:
    """The tensor behind a ``get_attr`` node, or None."""
    return _get(module, str(value.target)) if isinstance(value, fx.Node) and value.op == "get_attr" else None


def _get(module: nn.Module, target: str) -> Any:
    found: Any = module
    for part in target.split("."):
        found = getattr(found, part)
    return found


def _own(made: nn.Module, **tensors: torch.Tensor | None) -> nn.Module:
    """Give a module that was made on the meta device its tensors."""
    for name, tensor in tensors.items():
        if name in made._buffers:
            made._buffers[name] = tensor
        else:
            held = tensor if tensor is None or isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)
            made._parameters[name] = held
    return made.eval()


def _weight_and_bias(module: fx.GraphModule, named: dict[str, Any]) -> tuple[Any, Any, bool]:
    weight, bias = _held(module, named["weight"]), _held(module, named.get("bias"))
    known = isinstance(weight, nn.Parameter) and weight.is_floating_point()
    return weight, bias, known and (bias is not None or named.get("bias") is None)


def _names(*values: Any) -> tuple[str, ...]:
    return tuple(str(value.target) if isinstance(value, fx.Node) else "" for value in values)


def _linear(module: fx.GraphModule, _: fx.Node, named: dict[str, Any]) -> _Layer | None:
    weight, bias, known = _weight_and_bias(module, named)
    if not known or weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    names = _names(named["weight"], named["bias"])
    return _Layer(_own(made, weight=weight, bias=bias), names[0], (named["input"],), ("linear", *names))


def _addmm(module: fx.GraphModule, node: fx.Node, named: dict[str, Any]) -> _Layer | None:
    """What a linear layer is after `run_decompositions`: the matrix product with a transposed weight."""
    first, turned = (named["mat1"], named["mat2"]) if "mat1" in named else (named["self"], named["mat2"])
    if not isinstance(turned, fx.Node) or turned.op != "call_function":
        return None
    swapped = turned.target is _aten.t.default
    swapped |= turned.target is _aten.permute.default and list(turned.args[1:2]) == [[1, 0]]
    swapped |= turned.target is _aten.transpose.int and sorted(map(str, turned.args[1:3])) == ["0", "1"]
    if not swapped or named.get("beta", 1) != 1 or named.get("alpha", 1) != 1:
        return None
    bias = named["self"] if "mat1" in named else None
    return _linear(module, node, {"input": first, "weight": turned.args[0], "bias": bias})


def _convolution(module: fx.GraphModule, node: fx.Node, named: dict[str, Any]) -> _Layer | None:
    weight, bias, known = _weight_and_bias(module, named)
    if not known or weight.dim() not in _BY_RANK:
        return None
    transposed = bool(named.get("transposed", "transpose" in str(node.target)))
    kind = _CONVOLUTIONS.get(node.target, _BY_RANK[weight.dim()][transposed])
    spatial, groups = weight.dim() - 2, named["groups"]
    options: dict[str, Any] = {}
    for name in ("stride", "padding", "dilation", "output_padding"):
        value = named.get(name, 0)
        if isinstance(value, str):
            options[name] = value
            continue
        sizes = [value] if isinstance(value, int) else list(value)
        sizes = sizes * spatial if len(sizes) == 1 else sizes
        if len(sizes) != spatial or not all(isinstance(size, int) for size in sizes):
            return None
        options[name] = tuple(sizes)
    extra = options.pop("output_padding")
    if transposed:
        options["output_padding"] = extra
    elif any(extra):
        return None
    outputs, inputs = weight.shape[1] if transposed else weight.shape[0], weight.shape[0 if transposed else 1]
    outputs, inputs = (outputs * groups, inputs) if transposed else (outputs, inputs * groups)
    if bias is not None and tuple(bias.shape) != (outputs,):
        return None
    make: Callable[..., nn.Module] = kind
    options |= {"groups": groups, "bias": bias is not None}
    made = make(inputs, outputs, tuple(weight.shape[2:]), device="meta", **options)
    names = _names(named["weight"], named["bias"])
    key = (kind, *names, *sorted(options.items()))
    return _Layer(_own(made, weight=weight, bias=bias), names[0], (named["input"],), key)


def _embedding(module: fx.GraphModule, _: fx.Node, named: dict[str, Any]) -> _Layer | None:
    weight = _held(module, named["weight"])
    if not isinstance(weight, nn.Parameter) or weight.dim() != 2 or named["sparse"]:
        return None
    padding = named["padding_idx"] if isinstance(named["padding_idx"], int) and named["padding_idx"] >= 0 else None
    if padding is not None and padding >= weight.shape[0]:
        return None
    made = nn.Embedding(weight.shape[0], weight.shape[1], padding, device="meta")
    name = str(named["weight"].target)
    return _Layer(_own(made, weight=weight), name, (named["indices"],), ("embedding", name, padding))


def _batch_norm(module: fx.GraphModule, node: fx.Node, named: dict[str, Any]) -> _Layer | None:
    weight, bias, known = _weight_and_bias(module, named)
    mean, variance = _held(module, named["running_mean"]), _held(module, named["running_var"])
    rank = node.meta.get("rank")
    if not known or bias is None or mean is None or variance is None or rank not in _NORMS or named["training"]:
        return None
    made = _NORMS[rank](weight.shape[0], named["eps"], named["momentum"], device="meta")
    made.num_batches_tracked = torch.tensor(0)
    names = _names(named["weight"], named["bias"], named["running_mean"], named["running_var"])
    owned = _own(made, weight=weight, bias=bias, running_mean=mean, running_var=variance)
    return _Layer(owned, names[0], (named["input"],), (rank, *names, named["eps"]))


def _layer_norm(module: fx.GraphModule, _: fx.Node, named: dict[str, Any]) -> _Layer | None:
    weight, bias, known = _weight_and_bias(module, named)
    shape = named["normalized_shape"]
    if not known or not all(isinstance(size, int) for size in shape) or tuple(shape) != tuple(weight.shape):
        return None
    made = nn.LayerNorm(list(shape), named["eps"], bias=bias is not None, device="meta")
    names = _names(named["weight"], named["bias"])
    key = ("layer_norm", *names, named["eps"])
    return _Layer(_own(made, weight=weight, bias=bias), names[0], (named["input"],), key)


def _recurrent(module: fx.GraphModule, node: fx.Node, named: dict[str, Any]) -> _Layer | None:
    """`nn.LSTM` and `nn.GRU`: all layers and directions are one operator on a flat list of weights."""
    lstm = node.target is _aten.lstm.input
    weights = [_held(module, value) for value in named["params"]]
    if not weights or not all(isinstance(weight, nn.Parameter) for weight in weights) or named["train"]:
        return None
    hidden = weights[1].shape[1]
    width = weights[0].shape[1]
    options = {
        "bias": named["has_biases"],
        "batch_first": named["batch_first"],
        "bidirectional": named["bidirectional"],
    }
    per_layer = (2 if named["bidirectional"] else 1) * (4 if named["has_biases"] else 2)
    if weights[0].shape[0] != hidden * (4 if lstm else 3) or len(weights) != named["num_layers"] * per_layer:
        return None  # an LSTM with projections has more
    kind: Callable[..., nn.RNNBase] = nn.LSTM if lstm else nn.GRU
    made = kind(width, hidden, named["num_layers"], device="meta", **options)
    flat = made._flat_weights_names
    if [getattr(made, name).shape for name in flat] != [weight.shape for weight in weights]:
        return None
    _own(made, **dict(zip(flat, weights, strict=True)))
    made._flat_weights = [getattr(made, name) for name in flat]
    states = list(named["hx"]) if lstm else [named["hx"]]
    fresh = all(isinstance(state, fx.Node) and state.target is _aten.zeros.default for state in states)
    state: tuple[Any, ...] = () if fresh else (tuple(states),) if lstm else (states[0],)  # zeros are the default
    names = _names(*named["params"])
    outputs: dict[int, tuple[int, ...]] = {0: (0,), 1: (1, 0), 2: (1, 1)} if lstm else {0: (0,), 1: (1,)}
    key = ("recurrent", *names, *options.values())
    return _Layer(made, names[0].removesuffix(flat[0]) + "weight", (named["input"], *state), key, outputs)


_MAKERS: dict[Any, Callable[[fx.GraphModule, fx.Node, dict[str, Any]], _Layer | None]] = {
    _aten.linear.default: _linear,
    _aten.addmm.default: _addmm,
    _aten.mm.default: _addmm,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    _aten.convolution.default: _convolution,
    _aten.embedding.default: _embedding,
    _aten.batch_norm.default: _batch_norm,
    _aten.layer_norm.default: _layer_norm,
    _aten.lstm.input: _recurrent,
    _aten.gru.input: _recurrent,
}


def _redirect(graph: fx.Graph, node: fx.Node, call: fx.Node, outputs: dict[int, tuple[int, ...]]) -> None:
    """Point every ``node[i]`` to where the module returns that tensor."""
    for user in list(node.users):
        value = call
        with graph.inserting_before(user):
            for step in outputs[int(str(user.args[1]))]:
                value = graph.call_function(operator.getitem, (value, step))
        user.replace_all_uses_with(value)
        graph.erase_node(user)


def _drop_identities(graph: fx.Graph) -> None:
    """Dropout in evaluation mode returns its input."""
    quiet = (_aten.dropout.default, _aten.dropout_.default, _aten.feature_dropout.default, _aten.alpha_dropout.default)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in quiet and node.args[-1] is False:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _layer_name(weight: str) -> str:
    """``fc.weight`` names ``fc``; ``attention.in_proj_weight`` names ``attention.in_proj``; ``w1`` itself."""
    for end in (".weight", "_weight"):
        if weight.endswith(end) and weight != end:
            return weight.removesuffix(end)
    return "layer" if weight == "weight" else weight


def _free(name: str, taken: dict[str, Any]) -> str:
    """The name, or the next one that is neither taken, nor inside another part, nor around one."""
    candidate, count = name, 0
    while any(f"{candidate}.".startswith(f"{t}.") or f"{t}.".startswith(f"{candidate}.") for t in taken):
        count += 1
        candidate = f"{name}_{count}"
    return candidate
