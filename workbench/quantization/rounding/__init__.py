"""Rounding methods that look at what a layer's weights are multiplied with; one file each, registered here."""

from __future__ import annotations

from workbench.quantization.rounding.adaround import adaround
from workbench.quantization.rounding.gptq import gptq
from workbench.quantization.rounding.problem import DAMPING, Problem, Rounded, Rounding, Watch, on_grid
from workbench.quantization.rounding.quantease import quantease

ROUNDINGS: dict[str, Rounding] = {"gptq": gptq, "quantease": quantease, "adaround": adaround}
"""By the name that a recipe gives them."""

__all__ = ["DAMPING", "ROUNDINGS", "Problem", "Rounded", "Rounding", "Watch", "on_grid"]
