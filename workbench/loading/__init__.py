"""The doors: a model from a file, a folder or a name, as a module that is ready for the bench.

Every file is taken as hostile. None of it is executed, evaluated or unpickled, and what it declares is
compared with what it holds before any memory is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import LoadError, nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load"]

ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pt2", ".onnx")
_CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt")


def load(
    path_or_name: str | os.PathLike[str],
    *,
    model: nn.Module | Callable[..., nn.Module] | None = None,
    **arguments: Any,
) -> nn.Module:
    """Load a model.

    load("weights.safetensors", model=Net, width=64)     # weights, and the class with its arguments
    load("checkpoint.pth", model=net)                    # fills net itself, once everything fits
    load("model.pt2")                                    # torch.export: brings its own graph
    load("model.onnx")
    load("hf:folder"), load("timm:resnet18")             # a local folder or cache; the hub by name

    Args:
        path_or_name: A file by its ending, or ``hf:`` or ``timm:`` with a folder or a name.
        model: For weights: a module, which is filled in place, or a class or function that makes one.
        arguments: For that class or function; for ``hf:``, fields of the configuration; for ``timm:``,
            arguments of ``timm.create_model``.

    Returns:
        The module in evaluation mode.

    Raises:
        LoadError: It cannot be loaded; the text says why and what to do. A given `model` is then unchanged.
    """
    name = os.fspath(path_or_name)
    if not isinstance(name, str):
        raise LoadError(f"A path or a name is text; this is {type(name).__name__}.")
    scheme, _, rest = name.partition(":")
    if scheme in ("hf", "timm"):
        from workbench.loading import hubs

        if model is not None:
            raise LoadError(f"{scheme}: builds the model from its configuration; leave model= out.")
        return hubs.from_transformers(rest, arguments) if scheme == "hf" else hubs.from_timm(rest, arguments)
    path = Path(name).expanduser()
    ending = path.suffix.lower()
    if ending not in ENDINGS and not path.is_dir():
        known = f"Known endings: {', '.join(ENDINGS)}; or a name after hf: or timm:."
        raise LoadError(f"{name!r} has no known ending. {known}{_folder_hint(path)}")
    from workbench.loading import files

    files.existing(path)
    if ending in (".pt2", ".onnx") and (model is not None or arguments):
        raise LoadError(f"A {ending} file brings its own computation; leave model= and its arguments out.")
    if ending == ".pt2":
        from workbench.loading.program import from_program

        return from_program(path)
    if ending == ".onnx":
        from workbench.loading.onnx_module import from_onnx

        return from_onnx(path)
    from workbench.loading import weights

    return weights.from_weights(path, model, arguments)


def _folder_hint(path: Path) -> str:
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.suffix.lower() in ENDINGS]
    except (OSError, ValueError):
        return ""
    return f" In its folder: {nearest(path.name, beside)}" if beside else ""
