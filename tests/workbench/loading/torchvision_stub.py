from __future__ import annotations

import importlib.util
import re
import sys

import torch

_library = torch.library.Library("torchvision", "FRAGMENT")


def declare_torchvision() -> None:
    """timm and transformers import torchvision, whose wheels on the package index are built beside a CUDA torch.

    Beside a CPU torch the compiled half is absent, and the Python half stops at the first operator that it
    describes. A bare declaration of these lets it go on; no model of these tests calls them.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    for _ in range(10):
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            name = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if name is None:
                raise
            _library.define(f"{name[1]}(Tensor x) -> Tensor")
            for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
                del sys.modules[module]
        else:
            return
