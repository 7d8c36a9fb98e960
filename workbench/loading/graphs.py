"""The JSON graph of an exported program as a `torch.fx` graph, from listed operators and checked names alone.

Names are checked because fx writes them into source code: a placeholder may be called ``x``, not
``x=print('hello')``. Strings in arguments are safe, since fx writes their `repr`.
"""

from __future__ import annotations

import operator
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from workbench.errors import LoadError
from workbench.loading.operators import CHECKS, aten, symbolic
from workbench.loading.signatures import (
    DEEPEST,
    PLAIN,
    Tree,
    attribute,
    constant,
    identifier,
    names_of,
    only,
    scalar,
    scope_of,
    split,
    unsupported,
)

DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
"""``ScalarType`` of the schema."""
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_BLOCKS = tuple(f"torch.ops.higher_order.wrap_with_{what}" for what in ("set_grad_enabled", "autocast"))
_MOST_NODES = 50_000


@dataclass(frozen=True)
class _Held:
    target: str


@dataclass(frozen=True)
class Input:
    """What a program expects as one argument; a size that may vary is None."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]


class Graph:
    """Decodes a program: `module` has the parameters under their own names, and calls aten operators.

    Attributes:
        module: A `torch.fx.GraphModule` that takes and returns what the exported module did.
        inputs: The tensors that it takes, in order; None if an argument is nested or not a tensor.
    """

    def __init__(self, program: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """
        Args:
            program: The parsed JSON, schema 8.
            tensors: Parameters, buffers and constants by the names that the signature gives them.

        Raises:
            LoadError: A name, an operator or an argument is not allowed.
            KeyError, TypeError, ...: It is not by the schema (`reading` words them).
        """
        self._fx = fx.Graph()
        self._tensors = tensors
        self._held: dict[str, fx.Node] = {}
        self._count = 0
        self._trained = False
        serialized, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
        self._metas: dict[str, Any] = serialized["tensor_values"]
        calls = program["graph_module"]["module_call_graph"]
        root = next(entry["signature"] for entry in calls if entry["fqn"] == "")
        values = self._arguments(serialized, signature, root)
        self._nodes(serialized, values, 0)
        self._outputs(serialized, signature, root, values)
        if self._trained:
            warnings.warn(
                "The program was exported in training mode; its dropout and batch statistics are for evaluation now.",
                stacklevel=6,
            )
        self._fx.eliminate_dead_code()
        self._fx.lint()
        self.module = fx.GraphModule({name: tensors[name] for name in self._held if self._is_used(name)}, self._fx)

    def _is_used(self, name: str) -> bool:
        return any(node.op == "get_attr" and node.target == name for node in self._fx.nodes)

    def _arguments(self, serialized: Any, signature: Any, root: Any) -> dict[str, Any]:
        """Placeholders for what a caller passes; parameters and buffers are fetched where they are used."""
        values: dict[str, Any] = {}
        leaves: list[tuple[str, Any]] = []
        for spec, argument in zip(signature["input_specs"], serialized["inputs"], strict=True):
            kind, content = only(spec)
            match kind:
                case "parameter" | "buffer" | "tensor_constant":
                    target = content[
                        {"parameter": "parameter_name", "buffer": "buffer_name"}.get(kind, "tensor_constant_name")
                    ]
                    if target not in self._tensors:
                        raise LoadError(f"The program has no tensor for {target!r}; it may be damaged.")
                    values[content["arg"]["name"]] = _Held(attribute(target))
                case "user_input" if only(content["arg"])[0] == "as_tensor":
                    leaves.append((content["arg"]["as_tensor"]["name"], None))
                case "constant_input" | "user_input":
                    plain = content["value"] if kind == "constant_input" else argument
                    leaves.append(("", self._argument(plain, {}) if only(plain)[0] in PLAIN else unsupported(plain)))
                case _:
                    raise LoadError(f"The program takes a {kind}, which is not loaded from files.")
        takes, names = Tree(root["in_spec"]), root.get("forward_arg_names")
        positional, by_name = takes.children
        arguments = [*positional.children, *by_name.children]
        given = [*(names or [])[: len(positional.children)]]
        given += [f"input_{i}" for i in range(len(given), len(positional.children))]
        self.inputs: list[Input] | None = []
        rest = iter(leaves)
        defaults = [constant(tree, rest_leaves) for tree, rest_leaves in split(arguments, leaves)]
        for index, (name, tree) in enumerate(zip([*given, *by_name.keys], arguments, strict=True)):
            optional = all(constant for constant, _ in defaults[index:])
            default = (defaults[index][1],) if optional else ()
            node = self._fx.placeholder(identifier(name), None, *default)
            self._unpack(tree, node, rest, values)
        return values

    def _unpack(self, tree: Tree, node: fx.Node, leaves: Any, values: dict[str, Any]) -> None:
        if not tree.leaf:
            self.inputs = None
            for key, child in zip(tree.keys or range(len(tree.children)), tree.children, strict=True):
                self._unpack(child, self._fx.call_function(operator.getitem, (node, key)), leaves, values)
            return
        name, _ = next(leaves)
        if not name:
            return  # a constant that the export has worked in; whatever is passed is not looked at
        values[name] = node
        meta = self._metas[name]
        sizes = tuple(size.get("as_int") for size in meta["sizes"])
        if self.inputs is not None:
            self.inputs.append(Input(str(node.target), DTYPES[meta["dtype"]], sizes))

    def _nodes(self, serialized: Any, values: dict[str, Any], depth: int) -> None:
        if depth > DEEPEST:
            raise LoadError(f"The program nests graphs more than {DEEPEST} deep.")
        self._count += len(serialized["nodes"])
        if self._count > _MOST_NODES:
            raise LoadError(f"The program has more than {_MOST_NODES:,} operations.")
        for node in serialized["nodes"]:
            target = node["target"]
            if target in _BLOCKS:
                self._inline(node, values, depth)
            elif function := symbolic(target):
                args = tuple(self._argument(named["arg"], values) for named in node["inputs"])
                if function is not operator.getitem and not all(isinstance(x, fx.Node | int | float) for x in args):
                    raise LoadError(f"The program computes {target} of what is not a number.")
                self._name(node["outputs"], self._fx.call_function(function, args), values)
            else:
                overload = aten(target)
                if str(overload._schema.name).removeprefix("aten::") not in CHECKS:
                    call = self._call(overload, node["inputs"], values)
                    call.meta["scope"] = scope_of(node)
                    self._name(node["outputs"], call, values)

    def _inline(self, node: Any, values: dict[str, Any], depth: int) -> None:
        """A block under no_grad or a switched-off autocast: in evaluation it is its operations."""
        named = [entry["arg"] for entry in node["inputs"]]
        index = next(i for i, argument in enumerate(named) if only(argument)[0] == "as_graph")
        if node["target"].endswith("autocast") and named[2] != {"as_bool": False}:
            raise LoadError("The program switches autocast on inside; export the model without torch.autocast.")
        inner = named[index]["as_graph"]["graph"]
        scope = {
            parameter["as_tensor"]["name"]: self._argument(argument, values)
            for parameter, argument in zip(inner["inputs"], named[index + 1 :], strict=True)
        }
        self._metas = {**inner["tensor_values"], **self._metas}
        self._nodes(inner, scope, depth + 1)
        results = [self._argument(output, scope) for output in inner["outputs"]]
        outputs = [str(name) for output in node["outputs"] for name in names_of(output)]
        values.update(zip(outputs, results, strict=True))

    def _call(self, overload: torch._ops.OpOverload, inputs: Any, values: dict[str, Any]) -> fx.Node:
        given = {entry["name"]: entry for entry in inputs}
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for position, parameter in enumerate(overload._schema.arguments):
            if parameter.name not in given:
                continue
            entry = given.pop(parameter.name)
            value = self._evaluation(overload, parameter.name, self._argument(entry["arg"], values))
            keyed = entry.get("kind") == 2 or parameter.kwarg_only
            if keyed or len(args) < position:
                kwargs[parameter.name] = value
            else:
                args.append(value)
        if given:
            raise LoadError(f"{overload} has no argument {', '.join(map(repr, given))}.")
        if overload is torch.ops.aten.sym_size.int:
            return self._fx.call_method("size", tuple(args), kwargs)
        return self._fx.call_function(overload, tuple(args), kwargs)

    def _evaluation(self, overload: torch._ops.OpOverload, parameter: str, value: Any) -> Any:
        """Dropout and batch statistics as in evaluation mode."""
        training = {"batch_norm": "training", "instance_norm": None, "native_dropout": "train", "rrelu": "training"}
        name = overload._schema.name.removeprefix("aten::").removesuffix("_")
        if "dropout" in name or name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            training[name] = "train"
        if value is True and parameter == training.get(name):
            self._trained = True
            return False
        if name == "scaled_dot_product_attention" and parameter == "dropout_p" and value:
            self._trained = True
            return 0.0
        return value

    def _name(self, outputs: Any, node: fx.Node, values: dict[str, Any]) -> None:
        """Note what an operation returns under the names that the program gives it."""
        several = len(outputs) > 1
        for index, output in enumerate(outputs):
            kind, content = only(output)
            if kind == "as_none":
                continue
            result = self._fx.call_function(operator.getitem, (node, index)) if several else node
            names = names_of(output)
            if isinstance(content, list):
                for position, name in enumerate(names):
                    if name:
                        values[name] = self._fx.call_function(operator.getitem, (result, position))
            elif names[0]:
                values[names[0]] = result
                if not several and names[0] in self._metas:
                    node.meta["rank"] = len(self._metas[names[0]]["sizes"])

    def _look_up(self, name: str, values: dict[str, Any]) -> Any:
        value = values[name]
        if isinstance(value, _Held):
            if value.target not in self._held:
                with self._fx.inserting_before(next(iter(self._fx.nodes))):
                    self._held[value.target] = self._fx.create_node("get_attr", value.target)
                self._held[value.target].meta["rank"] = self._tensors[value.target].dim()
            return self._held[value.target]
        return value

    def _argument(self, argument: Any, values: dict[str, Any]) -> Any:
        kind, content = only(argument)
        match kind:
            case "as_none":
                return None
            case "as_tensor":
                return self._look_up(content["name"], values)
            case "as_tensors":
                return [self._look_up(entry["name"], values) for entry in content]
            case "as_optional_tensor":
                return self._argument(content, values)
            case "as_optional_tensors":
                return [self._argument(entry, values) for entry in content]
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return self._symbol(content, values)
            case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
                return [self._symbol(entry, values) for entry in content]
            case "as_ints" | "as_floats" | "as_bools" | "as_strings":
                return [scalar(entry, kind[:-1]) for entry in content]
            case "as_int" | "as_float" | "as_bool" | "as_string":
                return scalar(content, kind)
            case "as_complex":
                return complex(float(content["real"]), float(content["imag"]))
            case "as_scalar_type":
                return DTYPES[content]
            case "as_memory_format":
                return _MEMORY_FORMATS[content]
            case "as_layout" if content == 7:
                return torch.strided
            case "as_device":
                return torch.device("cpu")  # wherever it was exported; a module is moved as a whole
        return unsupported(argument)

    def _symbol(self, content: Any, values: dict[str, Any]) -> Any:
        kind, value = only(content)
        return self._look_up(value, values) if kind == "as_name" else scalar(value, kind)

    def _outputs(self, serialized: Any, signature: Any, root: Any, values: dict[str, Any]) -> None:
        results = []
        for spec, output in zip(signature["output_specs"], serialized["outputs"], strict=True):
            kind, _ = only(spec)
            if kind != "user_output":
                raise LoadError(
                    f"The program has a {kind} (it changes its own state). Export the model in evaluation mode: "
                    "torch.export.export(model.eval(), inputs)."
                )
            results.append(self._argument(output, values))
        self._fx.output(Tree(root["out_spec"]).fill(iter(results)))
