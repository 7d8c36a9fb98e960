"""Operands of residual additions on grids: found, simulated, deployed and shipped; and nothing where none is named."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

import workbench as wb
from workbench import Quantization, Recipe, RecipeError, Task
from workbench.inputs import Inputs
from workbench.network import NO_SUMS, Network
from workbench.quantization.exposure import expose_sums
from workbench.quantization.quantizer import specs
from workbench.quantization.sums import Sum
from workbench.recipe import Deployment
from workbench.runtimes import prepare
from workbench.store import Store

X = torch.randn(24, 4, 8, 8, generator=torch.Generator().manual_seed(3))


class Block(nn.Module):
    """Two convolutions, and the input or a third one beside them, added in one of the usual ways."""

    def __init__(self, way: str = "+", short: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.short = nn.Conv2d(4, 4, 1) if short else nn.Identity()
        self.skip = nn.quantized.FloatFunctional()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        z = self.short(x)
        if self.way == "+":
            y = y + z
        elif self.way == "turned":
            y = z + y
        elif self.way == "torch.add":
            y = torch.add(y, z)
        elif self.way == "method":
            y = y.add(z)
        elif self.way == "named":
            y = torch.add(y, other=z, alpha=1)
        elif self.way == "+=":
            y += z
        elif self.way == "add_":
            y.add_(z)
        else:
            y = self.skip.add(y, z)
        return F.relu(y)


WAYS = ("+", "turned", "torch.add", "method", "named", "+=", "FloatFunctional")


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 3, padding=1)
        self.layer = nn.Sequential(*blocks)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(F.relu(self.stem(x))).mean((2, 3)))


def made(*blocks: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = Net(*blocks)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.4)
    return model.eval()


def network(model: nn.Module, inputs: Tensor = X) -> Network:
    return Network(model, Inputs(inputs), len(inputs), Path(tempfile.mkdtemp()))


def both(bits: int = 8, **more: Any) -> Quantization:
    return Quantization(weight_bits=8, activation_bits=8, layers={"*.add.*": {"activation_bits": bits}}, **more)


@pytest.mark.parametrize("way", WAYS)
@torch.inference_mode()
def test_each_way_to_add_is_found_named_and_computes_the_same(way: str) -> None:
    model = made(Block(way), Block(way, short=True))
    wanted, state = model(X), copy.deepcopy(model.state_dict())
    own = network(model)
    names = [name for name, layer in own.layers.items() if layer.kind == "Sum operand"]
    assert names == [f"layer.{block}.add.{operand}" for block in (0, 1) for operand in ("left", "right")]
    assert torch.equal(own.call(Inputs(X)), network(made(Block("+"), Block("+", short=True))).call(Inputs(X)))
    assert torch.allclose(own.call(Inputs(X)), wanted, atol=1e-5)
    assert own.state.keys() == state.keys()
    assert not any(isinstance(module, Sum) for module in model.modules())  # the given one is left as it was
    around = {name for name in names if own.layers[name].shortcut}
    first = "left" if way == "turned" else "right"
    # of two convolutions' outputs, the first is what a runtime merges
    assert around == {f"layer.0.add.{first}", "layer.1.add.right"}


class Fake(nn.Module):
    """The same network with every rounding written out."""

    def __init__(self, own: Network, asked: Quantization) -> None:
        super().__init__()
        self.model = own.module
        self.layers = own.quantized(specs(asked, own.layers))

    def rounded(self, x: Tensor, name: str) -> Tensor:
        grid = self.layers[name].activation_grid if name in self.layers else None
        if grid is None:
            return x
        whole = torch.round(x * grid.scale.reciprocal()) + grid.zero_point
        return (whole.clamp(grid.quant_min, grid.quant_max) - grid.zero_point) * grid.scale

    def conv(self, x: Tensor, name: str, padding: int) -> Tensor:
        layer = self.layers[name]
        weight = layer.weight_grid.dequantize(layer.weight)
        return F.conv2d(self.rounded(x, name), weight, layer.bias_values(), padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x, "stem", 1))
        for index, block in enumerate(self.model.layer):
            name = f"layer.{index}"
            y = self.conv(F.relu(self.conv(x, f"{name}.conv1", 1)), f"{name}.conv2", 1)
            z = x if isinstance(block.short, nn.Identity) else self.conv(x, f"{name}.short", 0)
            x = F.relu(self.rounded(y, f"{name}.add.left") + self.rounded(z, f"{name}.add.right"))
        head = self.layers["head"]
        weight = head.weight_grid.dequantize(head.weight)
        return F.linear(self.rounded(x.mean((2, 3)), "head"), weight, head.bias_values())


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.booleans(), min_size=1, max_size=3),
    st.integers(2, 8),
    st.sampled_from(["minmax", "mse", "percentile"]),
    st.sampled_from(["none", "shortcut", "both"]),
    st.sampled_from(["*.add.left", "*.add.right", "*.add.*", "layer.0.add.*"]),
    st.integers(0, 9),
)
@torch.inference_mode()
def test_what_is_simulated_is_the_network_with_its_operands_rounded(
    shorts: list[bool], bits: int, how: Any, sums: Any, pattern: str, seed: int
) -> None:
    own = network(made(*(Block(short=short) for short in shorts), seed=seed))
    asked = Quantization(
        weight_bits=8, activation_bits=8, range=how, sums=sums, layers={pattern: {"activation_bits": bits}}
    )
    found = own.simulation.run(Inputs(X), specs(asked, own.layers))
    wanted = Fake(own, asked)(X)
    # a sum in another order can land on the other side of a middle
    assert (found - wanted).abs().mean() <= 0.01 * wanted.abs().mean()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("pattern", ["*.add.left", "*.add.right", "*.add.*"])
@torch.inference_mode()
def test_what_runs_is_what_is_simulated(runtime: str, bits: int, pattern: str) -> None:
    own = shared()
    asked = specs(
        Quantization(weight_bits=8, activation_bits=8, layers={pattern: {"activation_bits": bits}}), own.layers
    )
    simulated = own.simulation.run(Inputs(X), asked)
    prepared = prepare(Deployment(runtime=runtime), own, own.quantized(asked))
    assert own.graph.present == set(own.layers)
    without = own.simulation.run(Inputs(X), specs(Quantization(weight_bits=8, activation_bits=8), own.layers))
    distance = (prepared.run(Inputs(X)) - simulated).square().mean()
    # ties aside: far nearer than to the network whose sums are not rounded
    assert distance <= 0.15 * (without - simulated).square().mean()


_shared: list[Network] = []


def shared() -> Network:
    """Exported once: that takes a second."""
    if not _shared:
        _shared.append(network(made(Block(), Block(short=True), Block("turned"))))
    return _shared[0]


@torch.inference_mode()
def test_openvino_makes_one_kernel_and_leaves_out_what_only_looks_like_a_rounding() -> None:
    from workbench.runtimes.openvino import _Writer

    own = shared()
    asked = specs(Quantization(weight_bits=8, activation_bits=8, sums="shortcut"), own.layers)
    writer = _Writer()
    own.graph.quantized(own.quantized(asked), writer)
    # the last sum is averaged and not rounded: nothing to merge there
    assert len(writer.left_out) == 2
    prepared = prepare(Deployment(runtime="openvino"), own, own.quantized(asked))
    assert (prepared.run(Inputs(X)) - own.simulation.run(Inputs(X), asked)).abs().max() < 0.05


class Placed(nn.Module):
    """Adds what stands at each place, which depends on the shape of the input alone."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.head = nn.Embedding(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        places = self.places(torch.arange(x.shape[1], device=x.device)).expand(x.shape)
        return self.head(x + places)


@torch.inference_mode()
def test_openvino_takes_an_operand_that_does_not_depend_on_the_values_of_the_input() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(8, 4, 6)
    own = network(Placed().eval(), inputs)
    asked = specs(Quantization(weight_bits=8, activation_bits=8, sums="both"), own.layers)
    assert any(spec.activation for name, spec in asked.items() if name.endswith("right"))
    prepared = prepare(Deployment(runtime="openvino", batch=8), own, own.quantized(asked))
    simulated = own.simulation.run(Inputs(inputs), asked)
    assert (prepared.run(Inputs(inputs)) - simulated).abs().max() < 0.05 * simulated.abs().max()
    # none of both goes around a layer
    alone = specs(Quantization(weight_bits=8, activation_bits=8, sums="shortcut"), own.layers)
    assert not any(spec.activation for name, spec in alone.items() if name.startswith("add."))


@torch.inference_mode()
def test_unnamed_they_change_nothing() -> None:
    own, model = shared(), made(Block(), Block(short=True), Block("turned"))
    plain = Quantization(weight_bits=8, activation_bits=8)
    asked = specs(plain, own.layers)
    assert not any(any(spec) for name, spec in asked.items() if ".add." in name)
    assert "sums" not in Recipe(quantization=plain).to_json()
    assert Recipe.from_json(Recipe(quantization=plain.replace(sums="both")).to_json()).quantization.sums == "both"
    # the same code without the rewriting
    bare = network(model)
    for name, module in list(bare.module.named_modules()):
        if isinstance(module, Sum):
            owner = bare.module.get_submodule(name.rpartition(".")[0])
            owner.__class__ = Block
            del owner.add
    assert bare.key == own.key
    layers = {name: layer for name, layer in bare.layers.items() if layer.kind != "Sum operand"}
    from workbench.quantization.calibration import observe
    from workbench.quantization.quantizer import Quantizer
    from workbench.quantization.simulation import Simulation

    seen = observe(bare.module, layers, Inputs(X))
    before = Simulation(bare.module, layers, Quantizer(layers, lambda: seen), bare.example)
    assert torch.equal(before.run(Inputs(X), specs(plain, layers)), network(model).simulation.run(Inputs(X), asked))


def test_operands_are_looked_at_when_they_are_asked_for() -> None:
    own = network(made(Block()))
    plain = Quantization(weight_bits=8, activation_bits=8)
    own.quantized(specs(plain, own.layers))
    assert own._observations is not None
    assert not any(".add." in name for name in own._observations)
    assert own.quantized(specs(both(), own.layers))["layer.0.add.left"].activation_grid is not None
    assert "layer.0.add.left" in own.quantizer.observations
    at_once = network(made(Block()))
    grids = [n.quantized(specs(both(), n.layers))["layer.0.add.right"].activation_grid for n in (own, at_once)]
    assert grids[0] is not None and grids[1] is not None
    assert grids[0].scale == grids[1].scale


def test_the_switch_is_the_wildcard() -> None:
    own = shared()
    switched = Quantization(weight_bits=8, activation_bits=8, sums="both")
    assert specs(switched, own.layers) == specs(both(), own.layers)
    shortcut = specs(switched.replace(sums="shortcut"), own.layers)
    named = {name for name, spec in shortcut.items() if ".add." in name and spec.activation}
    assert named == {name for name, layer in own.layers.items() if layer.shortcut}
    off = switched.replace(layers={"layer.0.add.*": {"activation_bits": None}})
    assert specs(off, own.layers)["layer.0.add.left"].activation is None


class Sums(nn.Module):
    """Adds what is no residual: a scalar, another shape, a parameter, integers; and twice what is one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.shift = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x) + 1 + self.shift + x[:, :1]
        y = y + x
        z = self.second(y)
        return torch.add(z, y, alpha=2) + z.add(y)


def test_only_activations_of_one_shape_are_operands() -> None:
    own = Network(Sums(), Inputs(torch.randn(8, 6)), 8, Path(tempfile.mkdtemp()))
    names = [name for name, layer in own.layers.items() if layer.kind == "Sum operand"]
    assert names == [f"add.{index}.{operand}" for index in range(3) for operand in ("left", "right")]


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x) if x.sum() > -1e9 else x


class Taken(nn.Module):
    """`add` is a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def add(self, x: Tensor) -> Tensor:
        return x + self.inner(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x)


def test_code_that_cannot_be_traced_stays_as_it_is_and_a_taken_name_is_not_used() -> None:
    x = torch.randn(8, 6)
    model = nn.Sequential(Branching(), Taken()).eval()
    wanted = model(x)
    assert expose_sums(model, Inputs(x)) == ("1.addition",)
    assert type(model[0]) is Branching
    assert torch.equal(model(x), wanted)
    assert torch.equal(copy.deepcopy(model)(x), wanted)


def test_a_traced_graph_is_rewritten_in_its_own_way() -> None:
    model = fx.symbolic_trace(made(Block(), Block()))
    x = Inputs(X)
    wanted = model(X)
    assert expose_sums(model, x) == ("add.0", "add.1")
    assert torch.equal(model(X), wanted)
    assert torch.equal(copy.deepcopy(model)(X), wanted)


class Writing(nn.Module):
    """Writes into what it was given, which is read afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        x += x.relu()
        return x


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.writing = Writing()

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return self.writing(y) * 0 + y


def test_what_would_change_the_output_is_undone() -> None:
    model = Around().eval()
    x = torch.randn(8, 6)
    wanted = model(x)
    assert expose_sums(model, Inputs(x)) == ()
    assert torch.equal(model(x), wanted)


def bench(model: nn.Module) -> wb.Bench:
    return wb.Bench(model, Task.fidelity(X, calibration=X), store=Store(tempfile.mkdtemp()))


def test_reports_artifacts_and_programs_have_them(tmp_path: Path) -> None:
    made_ = bench(made(Block(), Block(short=True)))
    recipe = Recipe(quantization=both(), deployment=Deployment(runtime="openvino"))
    *_, report = made_.stream(recipe)
    rows = {row.name: row for row in report.layers}
    assert rows["layer.0.add.left"].activation_bits == 8
    assert rows["layer.0.add.left"].weight_bits is None
    assert rows["layer.0.add.left"].bytes == 0
    assert report.size.value == len(made_._network.artifact(recipe.quantization, recipe.to_json()))
    assert made_.agreement(recipe).rate.value == 1
    from workbench.exporting.integer_weights import IntegerWeights
    from workbench.exporting.program import Program

    own = made_._network
    asked = specs(recipe.quantization, own.layers)
    simulated = own.simulation.run(Inputs(X), asked)
    for form in (IntegerWeights(), Program()):
        path = tmp_path / f"model{form.ending}"
        form.write(path, own, own.quantized(asked), recipe)
        assert torch.allclose(form.reload(path, own)(Inputs(X)), simulated, atol=0.05)


def test_what_is_not_there_is_told() -> None:
    plain = bench(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval())
    with pytest.raises(RecipeError, match=r"no layer '\*\.add\.\*'"):
        plain.check(Recipe(quantization=both()))
    *_, report = plain.stream(Recipe(quantization=Quantization(weight_bits=8, activation_bits=8, sums="both")))
    assert NO_SUMS in report.notes
    with pytest.raises(RecipeError, match="sums"):
        Quantization(sums="all")  # type: ignore[arg-type]


def test_effects_of_other_layers_do_not_depend_on_them() -> None:
    made_ = bench(made(Block()))
    forecast = made_.forecast.sensitivity
    quantization = Quantization(weight_bits=8, activation_bits=8)
    assert not any(".add." in term.layer for term in forecast.terms(quantization))
    assert any(".add." in term.layer for term in forecast.terms(quantization.replace(sums="both")))
