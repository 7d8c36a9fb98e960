"""Block-wise reconstruction: roundings are learned so that a block of layers gives what it gave in fp32."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.grid import AnyGrid, Grid
from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.outputs import Output, selected
from workbench.quantization.adam import Adam
from workbench.quantization.quantizer import LayerSpec, Settled
from workbench.quantization.reestimation import in_place
from workbench.quantization.rounding import Watch
from workbench.quantization.simulation import Simulation, Stage
from workbench.randomness import seeded
from workbench.tracing import running

BLOCK_LAYERS = 8
"""Layers that learn together at most, unless a residual block has more. A network of a few layers is one block: on
held-out data, blocks of single layers gained nothing beyond what rounding by second moments had."""
OPERATIONS = 4e11
"""Floating point operations of all steps together: ten to twenty seconds of one core."""
MOST_OPERATIONS = 4e12
"""Where the fewest steps that help would take more, nothing is learned."""
STEPS = (60, 300)
"""Fewest and most."""
BATCH = 32
PASSES = 4
"""A step costs as much as this many runs: forward and backward, and fp32 for inputs that were mixed."""
WEIGHT_RATE = 0.003
"""Of Adam, in steps of the weights' grid, at the start; it falls to zero."""
ACTIVATION_RATE = 0.001
"""Of the logarithm of an activation's step."""
BIAS_RATE = 0.0005
"""In standard deviations of the layer's biases."""
WARM_UP = 20
MARGIN = 0.45
"""How far from its grid point a weight may start, in steps: towards its fp32 value, short of the next point."""
HELD_OUT = 8
"""Every so many examples are not learned from: what is better on these is kept."""
MIXES = 4
"""Of held-out examples with each other, beside themselves."""
ENTRY_BYTES = 128 * 2**20
"""Memory for the inputs of a block; fewer examples are used where they are large."""
TINY = 1e-12


@dataclass(frozen=True)
class Goal:
    """How outputs of the whole network are compared."""

    output: Output
    """Which part of what the model returns."""
    classes: bool
    """Whether they are logits: by KL divergence, else by squared error."""

    def loss(self, outputs: Any, reference: Any) -> Tensor:
        """One number for a batch."""
        ours, theirs = selected(outputs, self.output), selected(reference, self.output)
        return divergence(ours, theirs, classes=True).mean() if self.classes else _error(ours, theirs)


class _Entry(NamedTuple):
    """What goes into a block."""

    inputs: Inputs
    x: Any
    """With everything before the block quantized; None for the first block."""
    exact: Any
    """In fp32."""


def steps_for(operations: float, inputs: Inputs) -> int:
    """How many steps a network can be given; 0 where too few would take too long.

    Args:
        operations: Floating point operations of one example.
        inputs: What there is to learn from.
    """
    cost = PASSES * min(BATCH, len(inputs)) * max(operations, 1.0)
    fewest, most = STEPS
    return 0 if fewest * cost > MOST_OPERATIONS else int(min(max(OPERATIONS / cost, fewest), most))


def divergence(outputs: Tensor, reference: Tensor, *, classes: bool) -> Tensor:
    """One number per example, shape (n,): KL divergence of the classes of logits, or noise over signal power."""
    if classes:
        one, other = F.log_softmax(outputs, 1), F.log_softmax(reference, 1)
        return (other.exp() * (other - one)).flatten(1).sum(1)
    power = reference.square().mean().clamp(min=TINY)
    return (outputs - reference).square().reshape(len(outputs), -1).mean(1) / power


def reconstructed(
    simulation: Simulation,
    settled: Mapping[str, Settled],
    asked: Mapping[str, LayerSpec],
    plain: Mapping[str, LayerSpec],
    followed: Mapping[str, Layer],
    inputs: Inputs,
    goal: Goal,
    steps: int,
    watch: Watch = Watch(),  # noqa: B008 - a Watch cannot be changed
    *,
    learn_bias: bool = True,
) -> dict[str, Settled]:
    """Learn the roundings of one block after the other.

    Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", 2021: a block's
    output, with everything before it quantized, comes as near to fp32's as it can; the last block's output is the
    network's. Blocks are runs of stages between which one tensor is alive, so that a residual block is never cut;
    a model that cannot be cut is one block. Roundings are learned straight-through from continuous weights that
    start within their grid point's cell, which at a few hundred steps came closer than AdaRound's sigmoid. Half the
    inputs are mixed with others (Zhang et al., "mixup", 2018, without labels): a few hundred examples are learned
    by heart otherwise. What is no better on held-out examples than it was, or than rounding to nearest, is undone.

    Args:
        simulation: Runs the network.
        settled: Where it starts.
        asked: What is asked of each layer at the start.
        plain: The same with weights rounded to nearest.
        followed: Layers that can learn, by module.
        inputs: Calibration examples.
        goal: How outputs of the network are compared.
        steps: Of gradient descent for each block.
        watch: Looked at before every step, and its cancel before every batch.
        learn_bias: Whether biases learn as well.

    Returns:
        The layers of all blocks in which something was learned.

    Raises:
        Cancelled: As the watch says.
    """
    made: dict[str, Settled] = {}
    if not steps:
        return made
    blocks = _blocks(simulation.stages, inputs, followed)
    entry = _Entry(inputs, None, None)
    for index, stages in enumerate(blocks):
        part = watch.part(index / len(blocks), (index + 1) / len(blocks))
        last = index + 1 == len(blocks)
        block = _Block(simulation, stages, asked, followed, goal.loss if last else _error)
        own = {layer.name: settled[layer.name] for layer in block.layers.values()}
        best = block.best(own, block.rounded(plain), entry, steps, part, learn_bias)
        made |= {name: each for name, each in best.items() if each is not own[name]}
        if not last:
            entry = block.after(entry, best, part)
    return made


def _blocks(stages: Sequence[Stage], inputs: Inputs, followed: Container[str]) -> list[list[Stage]]:
    """Stages in blocks of at most `BLOCK_LAYERS` layers that are followed, unless one stage has more."""
    if not inputs.uniform:  # what is between two blocks cannot be kept as one tensor
        return [list(stages)]
    blocks: list[list[Stage]] = [[]]
    for stage in stages:
        own = [site for each in (*blocks[-1], stage) for site in each.sites if site in followed]
        if blocks[-1] and len(own) > BLOCK_LAYERS:
            blocks.append([])
        blocks[-1].append(stage)
    return blocks


class _Block:
    """Some stages, and how their output is compared."""

    def __init__(
        self,
        simulation: Simulation,
        stages: Sequence[Stage],
        asked: Mapping[str, LayerSpec],
        followed: Mapping[str, Layer],
        loss: Callable[[Any, Any], Tensor],
    ) -> None:
        self._simulation, self._stages, self._asked, self._loss = simulation, stages, asked, loss
        self.layers = {site: followed[site] for stage in stages for site in stage.sites if site in followed}

    def rounded(self, plain: Mapping[str, LayerSpec]) -> dict[str, Settled]:
        """The block's layers, each rounded to nearest."""
        made = {}
        for layer in self.layers.values():
            found = self._simulation.quantizer.layer(layer.name, plain[layer.name])
            bias = found.bias_values() if found.bias is not None else None
            made[layer.name] = Settled(found.weight, found.weight_grid, found.activation_grid, bias)
        return made

    def best(
        self,
        start: Mapping[str, Settled],
        nearest: Mapping[str, Settled],
        entry: _Entry,
        steps: int,
        watch: Watch,
        learn_bias: bool,
    ) -> Mapping[str, Settled]:
        """What comes nearest to fp32; what was learned has to show it on held-out examples."""
        count = len(entry.inputs)
        held = torch.arange(0, count, HELD_OUT) if count >= 2 * HELD_OUT else torch.arange(count)
        kept = torch.ones(count, dtype=torch.bool)
        kept[held] = count < 2 * HELD_OUT
        # neither was learned from the examples one by one, so that all of them may judge
        best = min((start, nearest), key=lambda each: self._lost(each, entry, torch.arange(count), watch))
        with contextlib.suppress(RuntimeError, NotImplementedError):  # a model whose code knows no gradient
            learned = self._learned(start, entry, kept.nonzero()[:, 0], steps, watch, learn_bias)
            if self._lost(learned, entry, held, watch) < self._lost(best, entry, held, watch):
                best = learned
        return best

    def after(self, entry: _Entry, settled: Mapping[str, Settled], watch: Watch) -> _Entry:
        """What goes into the next block; of as many examples as there is room for."""
        found: list[tuple[Any, Any]] = []
        count = len(entry.inputs)
        with torch.inference_mode():
            for part in torch.arange(count).split(BATCH):
                Watch(watch.cancel).look(0.0)
                own = _some(entry, part)
                found.append((self._hard(own, settled), self._exact(own)))
                bytes_ = 2 * found[0][0].nbytes * len(found)
                if bytes_ >= ENTRY_BYTES:
                    break
        with torch.inference_mode(False):  # gradients are taken of what follows
            x, exact = (torch.cat([pair[at].clone() for pair in found]) for at in (0, 1))
        return _Entry(entry.inputs[: len(x)], x, exact)

    def _lost(
        self,
        settled: Mapping[str, Settled],
        entry: _Entry,
        held: Tensor,
        watch: Watch = Watch(),  # noqa: B008 - a Watch cannot be changed
    ) -> float:
        """On some examples, and on these mixed with each other."""
        random = torch.Generator().manual_seed(1)
        losses = []
        with torch.inference_mode():
            for part in entry.inputs[held].batches(torch.arange(len(held)), BATCH):
                Watch(watch.cancel).look(0.0)  # heard, and nothing told: this is no step of the descent
                own = _some(entry, held[part])
                for mix in range(1 + MIXES):
                    seen = _mixed(own, random) if mix else own
                    losses.append(len(part) * float(self._loss(self._hard(seen, settled), self._exact(seen))))
        found = math.fsum(losses)
        return found if math.isfinite(found) else math.inf

    def _hard(self, entry: _Entry, settled: Mapping[str, Settled]) -> Any:
        model = self._simulation.model
        replaced = {s: in_place(model.get_submodule(s), settled[layer.name]) for s, layer in self.layers.items()}
        return self._simulation.run_part(self._stages, entry.inputs, entry.x, self._asked, replaced)

    def _exact(self, entry: _Entry) -> Any:
        return self._soft(entry._replace(x=entry.exact), {})

    def _soft(self, entry: _Entry, learning: Mapping[str, _Learning]) -> Any:
        """With modules in fp32 where nothing learns."""
        x = entry.x
        with running(), seeded():
            for stage in self._stages:
                own = {s: learning.get(s) or self._simulation.model.get_submodule(s) for s in stage.sites}
                x = stage(entry.inputs, x, own, {})  # type: ignore[arg-type]
        return x

    def _learned(
        self, start: Mapping[str, Settled], entry: _Entry, kept: Tensor, steps: int, watch: Watch, learn_bias: bool
    ) -> dict[str, Settled]:
        model = self._simulation.model
        random = torch.Generator().manual_seed(0)
        with torch.inference_mode(False), torch.enable_grad():
            learning = {
                site: _Learning(model.get_submodule(site), start[layer.name], learn_bias)
                for site, layer in self.layers.items()
                if start[layer.name].weight_grid is not None
            }
            if not learning:
                return dict(start)
            descent = Adam([rated for each in learning.values() for rated in each.parameters()])
            waiting: list[Tensor] = []
            for step in range(steps):
                watch.look(step / steps)
                if not waiting:
                    order = kept[torch.randperm(len(kept), generator=random)]
                    parts = entry.inputs[order].batches(torch.arange(len(order)), BATCH)
                    waiting = [order[part] for part in parts]
                share = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
                seen = _mixed(_some(entry, waiting.pop()), random)
                with torch.no_grad():
                    wanted = self._exact(seen)
                loss = self._loss(self._soft(seen, learning), wanted)
                descent.forget()
                if not bool(torch.isfinite(loss)):
                    continue
                loss.backward()
                descent.step(share)
            done = {self.layers[site].name: each.settled() for site, each in learning.items()}
        return {**start, **done}


class _Learning:
    """In the place of a layer: weights, the input's step and the bias can be moved."""

    def __init__(self, module: nn.Module, start: Settled, learn_bias: bool) -> None:
        if start.weight is None or start.weight_grid is None:
            raise ValueError("this layer has no grid to learn on")
        self._module, self._start, self._grid = module, start, start.weight_grid
        weight: Tensor = module.weight.detach()  # type: ignore[operator]
        with torch.no_grad():
            hard = self._grid.dequantize(start.weight).clone()
            self._unit = _step(hard, self._grid)
            near = hard + torch.minimum(torch.maximum(weight - hard, -MARGIN * self._unit), MARGIN * self._unit)
            same = self._grid.fake_quantize(near) == hard
            self._origin = torch.where(same, near, hard).clone()
        self._moved = nn.Parameter(torch.zeros_like(self._origin))
        self._log_step: nn.Parameter | None = None
        if isinstance(start.activation_grid, Grid):
            grid = start.activation_grid
            self._zero = grid.zero_point.clone().float()
            self._low, self._high = grid.quant_min - self._zero, grid.quant_max - self._zero
            self._log_step = nn.Parameter(grid.scale.clone().log())
        held: Any = start.bias if start.bias is not None else module.bias
        self._bias: Tensor | None = None if held is None else held.detach().clone()
        self._shift: nn.Parameter | None = None
        if self._bias is not None and learn_bias:
            self._spread = self._bias.std(correction=0) + TINY
            self._shift = nn.Parameter(torch.zeros_like(self._bias))

    def parameters(self) -> list[tuple[Tensor, float]]:
        """With their rates."""
        rates = ((self._moved, WEIGHT_RATE), (self._log_step, ACTIVATION_RATE), (self._shift, BIAS_RATE))
        return [(parameter, rate) for parameter, rate in rates if parameter is not None]

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """In the module's place."""
        soft = self._origin + self._moved * self._unit
        with torch.no_grad():
            hard = self._grid.fake_quantize(soft.detach())
        parameters = {"weight": soft + (hard - soft).detach()}
        bias = self._made_bias()
        if bias is not None:
            parameters["bias"] = bias
        if self._log_step is not None:
            step = self._log_step.exp()
            steps = torch.clamp(x / step, self._low, self._high)
            x = (steps + (steps.round() - steps).detach()) * step
        return torch.func.functional_call(self._module, parameters, (x, *args), kwargs)

    forward = __call__

    @torch.no_grad()
    def settled(self) -> Settled:
        """What was learned, on the grids."""
        whole = self._grid.quantize(self._origin + self._moved * self._unit)
        grid = self._start.activation_grid
        if self._log_step is not None and grid is not None:
            grid = replace(grid, scale=self._log_step.detach().exp())
        bias = self._made_bias()
        return Settled(whole, self._grid, grid, None if bias is None else bias.detach().clone())

    def _made_bias(self) -> Tensor | None:
        if self._bias is None or self._shift is None:
            return self._bias
        return self._bias + self._shift * self._spread


def _step(hard: Tensor, grid: AnyGrid) -> Tensor:
    """About the distance of two values of a grid, so that it broadcasts over the weight."""
    if isinstance(grid, Grid):
        return grid.along(grid.scale, hard).clone() * grid.stride
    rows = hard.reshape(1, -1) if grid.axis is None else hard.transpose(0, grid.axis).flatten(1)
    size = (rows.amax(1) - rows.amin(1)).clamp(min=TINY) / (2**grid.bits - 1)
    return size.reshape([-1 if at == grid.axis else 1 for at in range(hard.dim())]) if grid.axis is not None else size


def _some(entry: _Entry, index: Tensor) -> _Entry:
    x, exact = (None if each is None else each[index] for each in (entry.x, entry.exact))
    return _Entry(entry.inputs[index].channels_last(), x, exact)


def _mixed(entry: _Entry, random: torch.Generator) -> _Entry:
    """Each example with another one of the batch, by shares that are drawn; what holds whole numbers stays as it is."""
    count = len(entry.inputs)
    other, share = torch.randperm(count, generator=random), torch.rand(count, generator=random)
    share = torch.where(torch.rand(count, generator=random) < 0.5, share, 0.0)

    def mixed(x: Tensor) -> Tensor:
        return torch.lerp(x, x[other], share.reshape(-1, *(1,) * (x.dim() - 1)).to(x.dtype))

    if entry.x is not None:
        return entry._replace(x=mixed(entry.x), exact=mixed(entry.exact))
    if not all(tensor.is_floating_point() for tensor in entry.inputs.tensors):
        return entry
    made = [mixed(tensor) for tensor in entry.inputs.tensors]
    places = len(entry.inputs.positional)
    named = dict(zip(entry.inputs.named, made[places:], strict=True))
    return entry._replace(inputs=Inputs(*made[:places], **named).channels_last())


def _error(outputs: Any, reference: Any) -> Tensor:
    """Squared error over the reference's variance."""
    return (outputs - reference).square().mean() / reference.var(correction=0).clamp(min=TINY)
