"""Names of modules for what an ONNX file calls its weights and nodes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx
from torch import Tensor, fx, nn

_WEIGHT = re.compile(
    r"^(.+?)[._/](weight|bias|kernel|gamma|beta|scale|running_mean|running_var|moving_mean|moving_variance|W|B)"
    r"([._:/]?\w*)$"
)
_QUOTED = re.compile(r"'([^']*)'")
_CLASSES = {"Gemm": "Linear", "MatMul": "Linear", "Gather": "Embedding"}
DEEPEST = 12  # modules within modules; a hostile name has thousands of dots
LONGEST = 48
_RESERVED = {*dir(nn.Module()), *dir(fx.GraphModule)}


class Names:
    """Hands out the paths of a module tree, no two alike, and fills them."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._taken: set[str] = set()

    def layer(self, node: onnx.NodeProto, weights: Sequence[str]) -> str:
        """A path for the module that a node becomes.

        Torch's exporter notes the scope of every node, which is the layer where its class is that of the
        operator.
        Else ``features.0.weight`` says ``features.0``; where no weight has such a name, the scope or the
        name of the node does.
        """
        notes = {entry.key: entry.value[:5000] for entry in node.metadata_props}
        scopes = [scope for scope in _QUOTED.findall(notes.get("pkg.torch.onnx.name_scopes", ""))[:-1] if scope]
        classes = _QUOTED.findall(notes.get("pkg.torch.onnx.class_hierarchy", ""))[:-1]
        expected = _CLASSES.get(node.op_type, node.op_type.removesuffix("alization"))
        if scopes and classes and classes[-1].rpartition(".")[2].startswith(expected):
            return self._free(scopes[-1])
        for weight in weights:
            found = _WEIGHT.match(weight[:1000])
            if found and not weight.startswith("onnx::"):
                return self._free(found[1])
        if scopes:
            return self._free(scopes[-1])
        name = re.sub(rf"[/._]?{re.escape(node.op_type)}(_\d+)?$", "", node.name[:1000])
        return self._free(name if re.search(r"[A-Za-z]", name) else node.op_type.lower())

    def constant(self, name: str) -> str:
        """A path for a parameter or a buffer that an operator uses."""
        return self._free(name)

    def put(self, path: str, held: nn.Module | Tensor) -> None:
        """Place a module, a parameter or a buffer; empty modules are made on the way."""
        *parents, last = path.split(".")
        owner = self._root
        for part in parents:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if isinstance(held, nn.Module):
            owner.add_module(last, held)
        elif isinstance(held, nn.Parameter):
            owner.register_parameter(last, held)
        else:
            owner.register_buffer(last, held)

    def _free(self, name: str) -> str:
        parts = [part for part in re.split(r"[./]+", name) if part]
        parts = [re.sub(r"\W", "_", part, flags=re.ASCII)[:LONGEST] for part in parts][-DEEPEST:]
        parts = [f"{part}_" if part in _RESERVED else part for part in parts]
        path = ".".join(parts) or "layer"
        number = 1
        while not self._fits(path):
            number += 1
            path = f"{'.'.join(parts) or 'layer'}_{number}"
        self._taken.add(path)
        return path

    def _fits(self, path: str) -> bool:
        """Whether nothing is there, nothing lies below, and no layer or tensor lies above."""
        if path in self._taken or any(other.startswith(f"{path}.") for other in self._taken):
            return False
        parts = path.split(".")
        above = {".".join(parts[:length]) for length in range(1, len(parts))}
        return not above & self._taken
