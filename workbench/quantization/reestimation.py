"""BatchNorm re-estimation: mean and spread of each channel are put back to what they were in fp32."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workbench.grid import AnyGrid, FloatGrid, Grid
from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.passes import run_once
from workbench.quantization.finding import CONVOLUTIONS, TRANSPOSED
from workbench.quantization.quantizer import LayerSpec, Settled
from workbench.quantization.rounding import Watch
from workbench.quantization.simulation import Replacement, Simulation

AT_ONCE = 64 * 2**20
"""Bytes of the largest layer's output for all examples together: they run as one batch."""
LEAST_EXAMPLES = 8
FACTORS = (0.5, 2.0)
"""Of a channel's spread: what asks for more has lost its signal, and a factor would not bring it back."""
TINY = 1e-12


class Statistics(NamedTuple):
    """Of a layer's output channels, shape (channels,) each."""

    mean: Tensor
    deviation: Tensor


def reestimated(
    simulation: Simulation,
    settled: Mapping[str, Settled],
    asked: Mapping[str, LayerSpec],
    followed: Mapping[str, Layer],
    inputs: Inputs,
    watch: Watch = Watch(),  # noqa: B008 - a Watch cannot be changed
) -> dict[str, Settled]:
    """Correct layer after layer, each with everything before it quantized and corrected.

    As if the BatchNorm that was folded into a layer took its statistics anew: Sun et al., "Hybrid 8-bit Floating
    Point (HFP8) Training and Inference for Deep Neural Networks", 2019, section 4.3, with the fp32 network's own
    statistics as the ones to restore. A channel's factor goes into its weights' scales and its bias; where
    weights have no scale of their own for each channel, the mean alone is corrected.

    Args:
        simulation: Runs the network.
        settled: The layers as they were rounded.
        asked: What is asked of the layers that are not followed.
        followed: Layers by module.
        inputs: Calibration examples; as many are taken as fit into one batch.
        watch: Looked at before every layer.

    Returns:
        The layers that were corrected.

    Raises:
        Cancelled: As the watch says.
    """
    correctable = {
        site: layer for site, layer in followed.items() if layer.bias is not None and settled[layer.name].weight_grid
    }
    batch = _one_batch(simulation.model, correctable, inputs)
    wanted = statistics(simulation.model, correctable, batch)
    made: dict[str, Settled] = {}
    replaced: dict[str, nn.Module | Replacement] = {}
    for site, layer in followed.items():
        module, own = simulation.model.get_submodule(site), settled[layer.name]
        if site in wanted:
            replaced[site] = _Correcting(module, layer.name, own, wanted[site], made, watch)
        else:
            replaced[site] = in_place(module, own)
    with torch.inference_mode():
        simulation.run_part(simulation.stages, batch, None, asked, replaced)
    return made


def in_place(module: nn.Module, settled: Settled) -> Replacement:
    """What computes as a layer that is settled."""
    values = {}
    if settled.weight is not None and settled.weight_grid is not None:
        values["weight"] = settled.weight_grid.dequantize(settled.weight)
        if settled.bias is not None:
            values["bias"] = settled.bias
    return Replacement(module, lambda: values, settled.activation_grid)


def statistics(model: nn.Module, layers: Mapping[str, Layer], batch: Inputs) -> dict[str, Statistics]:
    """Of the outputs of modules that run once, by module."""
    found: dict[str, list[Statistics]] = {site: [] for site in layers}
    thread = threading.get_ident()

    def hook(site: str, module: nn.Module, output: Any) -> None:
        if threading.get_ident() == thread and isinstance(output, Tensor):
            found[site].append(_statistics(module, output))

    hooks = [
        model.get_submodule(site).register_forward_hook(lambda m, _, output, site=site: hook(site, m, output))
        for site in layers
    ]
    with torch.inference_mode():
        run_once(model, batch, hooks)
    return {site: own[0] for site, own in found.items() if len(own) == 1}


class _Correcting(Replacement):
    """Corrects a layer when it runs, and gives what the corrected one gives."""

    def __init__(
        self,
        module: nn.Module,
        name: str,
        settled: Settled,
        wanted: Statistics,
        made: dict[str, Settled],
        watch: Watch,
    ) -> None:
        values = in_place(module, settled)
        super().__init__(module, values._parameters, values._grid)
        self._name, self._settled, self._wanted, self._results, self._watch = name, settled, wanted, made, watch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._corrected(super().__call__(*args, **kwargs))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._corrected(super().forward(*args, **kwargs))

    def _corrected(self, output: Tensor) -> Tensor:
        if self._watch.cancel is not None:
            self._watch._replace(tell=None).look(1.0)
        bias, grid = self._settled.bias, self._settled.weight_grid
        held: Any = self._module.bias if bias is None else bias
        bias = held.detach()
        found = _statistics(self._module, output)
        usable = (found.deviation > TINY) & torch.isfinite(self._wanted.deviation) & torch.isfinite(found.deviation)
        factor = torch.where(usable, self._wanted.deviation / found.deviation.clamp(min=TINY), 1.0).clamp(*FACTORS)
        rescaled = None if grid is None else _rescaled(grid, factor)
        if rescaled is None:
            factor = torch.ones_like(factor)
        shift = (self._wanted.mean - found.mean * factor).nan_to_num(0, 0, 0)
        self._results[self._name] = self._settled._replace(
            weight_grid=rescaled or grid, bias=(bias * factor + shift).float()
        )
        axis = _channels(self._module, output)
        shape = [-1 if at == axis else 1 for at in range(output.dim())]
        return output * factor.reshape(shape).to(output.dtype) + shift.reshape(shape).to(output.dtype)


def _rescaled(grid: AnyGrid, factor: Tensor) -> AnyGrid | None:
    """The grid with each channel's scales times a factor; None where it has none that could be changed."""
    if not isinstance(grid, Grid | FloatGrid) or grid.axis != 0 or len(grid.scale) != len(factor):
        return None
    if grid.power_of_two:
        return None
    return replace(grid, scale=grid.scale * factor.reshape(-1, *(1,) * (grid.scale.dim() - 1)).float())


def _statistics(module: nn.Module, output: Tensor) -> Statistics:
    axis = _channels(module, output)
    others = [at for at in range(output.dim()) if at != axis]
    variance, mean = torch.var_mean(output.float(), dim=others, correction=0)
    return Statistics(mean, variance.sqrt())


def _channels(module: nn.Module, output: Tensor) -> int:
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        return output.dim() - 1 - len(module.kernel_size)
    return output.dim() - 1


def _one_batch(model: nn.Module, layers: Mapping[str, Layer], inputs: Inputs) -> Inputs:
    """As many calibration examples as fit into one batch."""
    largest = 1

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.nbytes)

    pair = inputs.cycled(2)
    with torch.inference_mode():
        run_once(model, pair, [model.get_submodule(site).register_forward_hook(hook) for site in layers])
    most = max(LEAST_EXAMPLES, 2 * AT_ONCE // largest)
    alike = max(inputs.batches(torch.arange(len(inputs)), most), key=len)
    return inputs[alike].channels_last()
