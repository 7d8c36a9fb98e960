"""Where the constants of an ONNX graph live in the module that is made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import onnx
import torch
from torch import Tensor, nn

from workbench.loading.onnx_names import Names
from workbench.loading.onnx_values import Node, Untranslatable

Origin = tuple[str, bool]  # an initializer, and whether it is its transpose


class Weights:
    """The module tree, filled as operators ask for it.

    A matrix that several nodes use stays one parameter. Vectors are not tied: exporters merge equal
    initializers, and the zero biases of two layers that were never trained are not one weight.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.root = nn.Module()
        self._uses = Counter(name for node in graph.node for name in node.input)
        self._names = Names(self.root)
        self._origins: dict[int, Origin] = {}
        self._parameters: dict[Origin, tuple[nn.Parameter, str]] = {}
        self._tables: list[tuple[nn.Parameter, str]] = []
        self._places: dict[int, str] = {}
        self._modules: dict[tuple[object, ...], str] = {}
        self._alive: list[Tensor] = []  # an id is only good while its tensor lives

    def remember(self, tensor: Tensor, name: str) -> None:
        """That a tensor is an initializer."""
        self._origins[id(tensor)] = (name, False)
        self._alive.append(tensor)

    def remember_transpose(self, turned: Tensor, tensor: Tensor) -> None:
        """That a tensor is the transpose of another."""
        origin = self._origins.get(id(tensor))
        if origin is not None:
            self._origins[id(turned)] = (origin[0], not origin[1])
            self._alive.append(turned)

    def transposed(self, weight: Tensor) -> Tensor | None:
        """See `Builder.transposed`."""
        if self._origins.get(id(weight)) in self._parameters:
            return None
        turned = weight.t().contiguous()
        self.remember_transpose(turned, weight)
        return turned

    def module(
        self, proto: onnx.NodeProto, node: Node, make: Callable[[], nn.Module], weights: Mapping[str, Tensor]
    ) -> str:
        """The path of a module with these weights; the same for a node of the same weights and attributes.

        Args:
            proto: The node, for its name.
            node: The same node, for its attributes.
            make: Makes the module, on the meta device.
            weights: By the module's own names.
        """
        origins = {name: self._origins.get(id(weight)) for name, weight in weights.items()}
        settings = tuple(sorted((name, str(value)) for name, value in node.attributes.items()))
        key = (node.op, settings, *origins.values())
        shared = None not in origins.values() and any(weight.ndim > 1 for weight in weights.values())
        if shared and key in self._modules:
            return self._modules[key]
        with torch.device("meta"):  # its random first weights would be thrown away
            module = make()
        named = [origin[0] for origin in origins.values() if origin is not None]
        path = self._names.layer(proto, sorted(named, key=lambda name: self._uses[name] > 1))
        for name, weight in weights.items():
            self._fill(module, path, name, weight, origins[name])
        if module._buffers.get("num_batches_tracked") is not None:
            module.num_batches_tracked = torch.tensor(0)
        self._names.put(path, module)
        self._modules[key] = path
        return path

    def _fill(self, module: nn.Module, path: str, name: str, weight: Tensor, origin: Origin | None) -> None:
        if getattr(module, name).shape != weight.shape:
            raise Untranslatable(f"The {name} of {path} has the shape {list(weight.shape)}, which does not fit.")
        if name in module._buffers:
            setattr(module, name, weight.clone())
            return
        if origin is None or weight.ndim < 2:
            setattr(module, name, nn.Parameter(weight.clone()))
            return
        if origin not in self._parameters:
            table = self._tied_table(weight)
            self._parameters[origin] = table or (nn.Parameter(weight), f"{path}.{name}")
            if isinstance(module, nn.Embedding):
                self._tables.append(self._parameters[origin])
        setattr(module, name, self._parameters[origin][0])

    def _tied_table(self, weight: Tensor) -> tuple[nn.Parameter, str] | None:
        """The embedding that a language model's output layer shares; exporters store its transpose a second time."""
        equal = (table for table in self._tables if table[0].shape == weight.shape and torch.equal(table[0], weight))
        return next(equal, None)

    def place(self, value: Tensor) -> tuple[str, bool]:
        """Where in the module a constant is to be found, and whether it is transposed there.

        A floating-point initializer becomes a parameter, anything else a buffer.
        """
        origin = self._origins.get(id(value))
        if origin is not None:
            for turned in (False, True):
                known = self._parameters.get((origin[0], origin[1] != turned))
                if known is not None:
                    return known[1], turned
        if id(value) not in self._places:
            self._alive.append(value)
            path = self._names.constant(origin[0] if origin is not None else "constant")
            if origin is not None and value.is_floating_point() and value.numel() > 1:
                parameter = nn.Parameter(value.clone())
                self._names.put(path, parameter)
                self._parameters[origin] = (parameter, path)
            else:
                self._names.put(path, value.clone())
            self._places[id(value)] = path
        return self._places[id(value)], False
