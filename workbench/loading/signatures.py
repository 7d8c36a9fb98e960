"""The small parts of a serialized program: tagged values, names, and trees of arguments."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from workbench.errors import LoadError

DEEPEST = 20
PLAIN = ("as_none", "as_int", "as_float", "as_bool", "as_string")
"""Kinds of arguments that are not tensors and hold their value themselves."""


class Tree:
    """A tree specification of torch's pytree, as nested tuples, lists and dicts; named types become these."""

    def __init__(self, spec: Any, depth: int = 0) -> None:
        if isinstance(spec, str):
            protocol, spec = json.loads(spec)
            if protocol != 1:
                raise LoadError(f"The program nests its arguments by protocol {protocol!r}; 1 is known.")
        if depth > DEEPEST:
            raise LoadError(f"The program's arguments are nested more than {DEEPEST} deep.")
        self.leaf = spec["type"] is None
        self.children = [Tree(child, depth + 1) for child in spec["children_spec"]]
        context = json.loads(spec["context"]) if isinstance(spec["context"], str) else spec["context"]
        if isinstance(context, list) and context and isinstance(context[0], list):
            context = context[0]  # a dataclass: its fields, and those that are None
        keyed = isinstance(context, list) and len(context) == len(self.children)
        self.keys = list(context) if keyed and all(isinstance(key, str | int) for key in context) else []
        self.kind = str(spec["type"])

    @property
    def leaves(self) -> int:
        """How many values it holds."""
        return 1 if self.leaf else sum(child.leaves for child in self.children)

    def fill(self, values: Any) -> Any:
        """The structure with values at its leaves."""
        if self.leaf:
            return next(values)
        filled = [child.fill(values) for child in self.children]
        if self.keys:
            return dict(zip(self.keys, filled, strict=True))
        return {} if self.kind.endswith("dict") else filled if self.kind == "builtins.list" else tuple(filled)


def split(trees: list[Tree], leaves: list[tuple[str, Any]]) -> Iterator[tuple[Tree, list[tuple[str, Any]]]]:
    """Each argument with its leaves.

    Raises:
        LoadError: There are too many or too few leaves.
    """
    start = 0
    for tree in trees:
        yield tree, leaves[start : start + tree.leaves]
        start += tree.leaves
    if start != len(leaves):
        raise LoadError("The program's signature and its arguments do not agree; it may be damaged.")


def constant(tree: Tree, leaves: list[tuple[str, Any]]) -> tuple[bool, Any]:
    """Whether an argument is all constants, and what they are."""
    if any(name for name, _ in leaves):
        return False, None
    return True, tree.fill(iter([value for _, value in leaves]))


def only(union: Any) -> tuple[str, Any]:
    """The kind and the content of a tagged value, ``{"as_int": 3}``."""
    ((kind, content),) = union.items()
    return kind, content


def names_of(output: Any) -> list[str | None]:
    """The names under which an operation's result is used later; None for one that is not."""
    kind, content = only(output)
    if kind == "as_tensor":
        return [content["name"]]
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return [content.get("as_name")]
    if kind == "as_tensors":
        return [entry["name"] for entry in content]
    if kind == "as_optional_tensors":
        return [entry["as_tensor"]["name"] if "as_tensor" in entry else None for entry in content]
    return unsupported(output)


def scalar(value: Any, kind: str) -> Any:
    """A number, a truth value or a string, if it is of the kind that it says it is.

    Raises:
        LoadError: It is not, or is an integer that no tensor library takes.
    """
    if kind == "as_float" and isinstance(value, str):  # JSON has no infinities
        return float(value)
    wanted: Any = {"as_int": int, "as_float": (int, float), "as_bool": bool, "as_string": str}[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "as_bool"):
        raise LoadError(f"The program has {value!r:.60} where {kind.removeprefix('as_')} was declared.")
    if kind == "as_int" and not -(2**63) <= value < 2**63:
        raise LoadError(f"The program has an integer of {value.bit_length()} bits.")
    return float(value) if kind == "as_float" else value


def scope_of(node: Any) -> str:
    """The path of the innermost module that an operation was traced in: ``key,path,class`` of the last entry."""
    stack = node.get("metadata", {}).get("nn_module_stack")
    parts = stack.rpartition(";")[2].split(",") if isinstance(stack, str) else []
    return parts[1] if len(parts) == 3 else ""


def unsupported(argument: Any) -> Any:
    """Refuse an argument: a custom object, an operator, a graph where none is expected.

    Raises:
        LoadError: Always.
    """
    raise LoadError(f"The program has an argument of kind {only(argument)[0]!r:.60}, which is not loaded from files.")


def identifier(name: Any) -> str:
    """A name that can be written into source code as an argument.

    Raises:
        LoadError: It cannot.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w{0,99}", name, re.ASCII) or keyword.iskeyword(name):
        raise LoadError(f"The program calls an argument {name!r:.100}, which is not a name.")
    return name


def attribute(name: Any) -> str:
    """A dotted name that a parameter may have.

    Raises:
        LoadError: It would overwrite a part of the module, or is no name.
    """
    if not isinstance(name, str) or not all(re.fullmatch(r"[\w-]{1,100}", part, re.ASCII) for part in name.split(".")):
        raise LoadError(f"The program calls a tensor {name!r:.100}, which is not a parameter's name.")
    if any(hasattr(nn.Module, part) or part in vars(nn.Module()) for part in name.split(".")):
        raise LoadError(f"The program calls a tensor {name!r:.100}, which would overwrite a part of every module.")
    return name
