"""Methods that look at the layers' inputs, from the recipe to numbers that can be shipped and run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench import Quantization
from workbench.delivery import artifact
from workbench.errors import Cancelled, RecipeError
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment
from workbench.runtimes import prepare

INPUTS = Inputs(torch.rand(120, 2, 10, 10, generator=torch.Generator().manual_seed(1)))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 16),
        nn.ReLU(),
        nn.Linear(16, 6),
    ).eval()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(model(), INPUTS, len(INPUTS), tmp_path_factory.mktemp("graphs"))


def outputs(network: Network, quantization: Quantization) -> torch.Tensor:
    return network.simulation.run(INPUTS, specs(quantization, network.layers))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_what_looks_at_the_inputs_changes_the_output_less(network: Network, bits: int) -> None:
    wanted = network.call(INPUTS)
    error = {
        method: float((outputs(network, Quantization(weight_bits=bits, method=method)) - wanted).square().mean())
        for method in ("nearest", "gptq", "quantease", "adaround")
    }
    assert max(error["gptq"], error["quantease"], error["adaround"]) < 0.7 * error["nearest"]


@pytest.mark.parametrize("method", ["nearest", "quantease"])
@pytest.mark.parametrize("activation_bits", [None, 8])
def test_bias_correction_brings_every_layers_mean_back(
    network: Network, method: str, activation_bits: int | None
) -> None:
    def shift(correction: str) -> torch.Tensor:
        quantization = Quantization(
            weight_bits=2, activation_bits=activation_bits, method=method, correction=correction
        )
        made = network.quantizer.parameters("0", specs(quantization, network.layers)["0"])
        layer = network.module[0]
        changed = nn.functional.conv2d(INPUTS.tensors[0], made["0.weight"], made.get("0.bias", layer.bias))
        return (changed - layer(INPUTS.tensors[0])).mean((0, 2, 3)).abs().max().detach()

    assert shift("none") > 0.005
    assert shift("bias") < 1e-3


def test_a_weighted_range_loses_less_of_what_counts(network: Network) -> None:
    def lost(how: str) -> float:
        spec = specs(Quantization(weight_bits=3, range=how), network.layers)["7"].weight
        assert spec is not None
        second = network.quantizer._moments.get("7").second[0]  # type: ignore[union-attr]
        change = network.quantizer.values(spec) - network.layers["7"].weight
        return float((change.square() @ second.diagonal()).sum())

    assert lost("hessian") < lost("mse")


VARIANTS = {
    "mid-rise": Quantization(weight_bits=2, activation_bits=8, scheme="midrise"),
    "mid-rise, one scale, weights only": Quantization(weight_bits=3, scheme="midrise", granularity="tensor"),
    "mid-rise at 8 bits": Quantization(weight_bits=8, activation_bits=8, scheme="midrise"),
    "one bit": Quantization(weight_bits=1, activation_bits=8, method="quantease", correction="bias"),
    "one bit of codebooks, weights only": Quantization(weight_bits=1, scheme="codebook"),
    "corrected": Quantization(weight_bits=2, activation_bits=8, method="gptq", range="hessian", correction="bias"),
    "corrected, weights only": Quantization(weight_bits=2, method="quantease", scheme="midrise", correction="bias"),
    **{
        scheme: Quantization(weight_bits=4, activation_bits=8, scheme=scheme)
        for scheme in ("power_of_two", "codebook", "float", "float_wide", "mx")
    },
    "groups": Quantization(weight_bits=4, activation_bits=8, granularity="group", group_size=8, correction="bias"),
    "codebooks of groups": Quantization(weight_bits=3, scheme="codebook", granularity="group", range="hessian"),
    "floats, rounded by their inputs": Quantization(
        weight_bits=4, activation_bits=8, scheme="float", method="quantease", range="auto", correction="bias"
    ),
    "by divergence": Quantization(weight_bits=4, activation_bits=6, range="kl"),
    "learned, affine": Quantization(weight_bits=3, activation_bits=4, method="adaround", scheme="affine"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_simulated_is_what_is_shipped_and_what_runs(network: Network, name: str) -> None:
    quantization = VARIANTS[name]
    asked = specs(quantization, network.layers)
    simulated = network.simulation.run(INPUTS, asked)
    layers = network.quantized(asked)
    ran = prepare(Deployment(runtime="onnxruntime"), network, layers).run(INPUTS)
    scale = simulated.abs().mean()
    assert ((ran - simulated).abs() <= 0.02 * scale).float().mean() > 0.97
    assert (ran.argmax(1) == simulated.argmax(1)).float().mean() > 0.96
    read = artifact.read(network.artifact(quantization, "{}"))
    for layer in layers.values():
        again = read.layers[layer.name]
        assert torch.equal(again.weight, layer.weight)
        assert torch.equal(again.weight_grid.dequantize(again.weight), layer.weight_grid.dequantize(layer.weight))
        assert again.weight_grid.code_span == layer.weight_grid.code_span
    shipped = model()
    shipped.load_state_dict(read.state)
    if quantization.activation_bits is None:
        with torch.inference_mode():
            assert torch.allclose(shipped(INPUTS.tensors[0]), simulated, atol=1e-4)


def test_a_mid_rise_grid_is_symmetric_and_takes_no_more_room(network: Network) -> None:
    layers = network.quantized(specs(VARIANTS["mid-rise"], network.layers))
    for layer in layers.values():
        assert set(layer.weight.unique().tolist()) <= {-3, -1, 1, 3}
    plain = Quantization(weight_bits=2, activation_bits=8)
    sizes = [network._bytes("7", specs(q, network.layers)["7"]) for q in (plain, VARIANTS["mid-rise"])]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    "more", [*({"scheme": name} for name in ("affine", "power_of_two", "float", "mx")), {"method": "naive"}]
)
def test_one_bit_is_refused_where_a_grid_needs_more(network: Network, more: dict[str, str]) -> None:
    mixed = Quantization(weight_bits=4, layers={"7": {"weight_bits": 1}}, **more)
    with pytest.raises(RecipeError, match=r"^7: .*needs at least 2 bits a weight, not 1; with 1: codebook, symmetric"):
        specs(mixed, network.layers)


def test_methods_for_weights_leave_activations_as_they_are(network: Network) -> None:
    one, other = (
        specs(Quantization(weight_bits=4, activation_bits=4, **more), network.layers)["7"].activation
        for more in ({}, {"method": "gptq", "range": "hessian", "correction": "bias"})
    )
    assert one is not None
    assert other is not None
    assert one._replace(range="") == other._replace(range="")
    assert torch.equal(network.quantizer.activation_grid(one).scale, network.quantizer.activation_grid(other).scale)


def test_cancelled_in_the_middle_leaves_nothing_broken() -> None:
    cancelled, whole = (Network(model(), INPUTS, len(INPUTS), Path("nowhere")) for _ in range(2))
    quantization = Quantization(weight_bits=2, activation_bits=8, method="adaround", correction="bias")
    asked = specs(quantization, whole.layers)
    cancel, told = threading.Event(), list[float]()

    def progress(done: float) -> None:
        told.append(done)
        if done > 0.5:
            cancel.set()

    with pytest.raises(Cancelled):
        cancelled.prepare(asked, cancel, progress)
    assert told == sorted(told)
    assert 0.5 < told[-1] < 0.6
    cancelled.prepare(asked)
    one, other = (each.simulation.run(INPUTS, asked) for each in (cancelled, whole))
    assert torch.equal(one, other)
    told.clear()
    cancelled.prepare(asked, None, told.append)
    assert not told, "what was made is kept"


def test_layers_without_moments_are_rounded_to_nearest() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2)).eval()
    network = Network(net, INPUTS, len(INPUTS), Path("nowhere"))
    plain, informed = (
        {name: network.quantizer.layer(name, spec).weight for name, spec in specs(q, network.layers).items()}
        for q in (Quantization(weight_bits=3), Quantization(weight_bits=3, method="gptq"))
    )
    assert torch.equal(plain["0"], informed["0"])
    assert not torch.equal(plain["2"], informed["2"])


@pytest.mark.parametrize(
    "more",
    [
        {"granularity": "group", "group_size": 5},
        {"scheme": "affine", "granularity": "group", "group_size": 16},
        {"scheme": "power_of_two"},
        {"scheme": "codebook", "range": "hessian"},
        {"scheme": "codebook", "granularity": "group", "group_size": 16},
        {"scheme": "float"},
        {"scheme": "mx"},
    ],
    ids=str,
)
def test_rounding_by_inputs_follows_every_grid(network: Network, more: dict[str, object]) -> None:
    wanted = network.call(INPUTS)
    error = {}
    for method in ("nearest", "gptq", "quantease", "adaround"):
        quantization = Quantization(weight_bits=3, method=method, **more)
        error[method] = float((outputs(network, quantization) - wanted).square().mean())
        for layer in network.quantized(specs(quantization, network.layers)).values():
            values = layer.weight_grid.dequantize(layer.weight)
            assert torch.equal(layer.weight_grid.fake_quantize(values), values)
            if layer.weight.dim() == 4:
                assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert max(error["gptq"], error["quantease"], error["adaround"]) < 0.85 * error["nearest"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"scheme": "float"}, "4-bit floats run in fp32 kernels here"),
        ({"scheme": "codebook"}, "4-bit codebooks run in fp32 kernels here"),
        ({"granularity": "group"}, "4-bit weights in groups of 32 run in fp32 kernels here"),
        ({"scheme": "power_of_two"}, "4-bit weights run in 8-bit kernels"),
    ],
)
def test_what_has_no_integer_kernel_is_said(network: Network, more: dict[str, str], says: str) -> None:
    layers = network.quantized(specs(Quantization(weight_bits=4, activation_bits=8, **more), network.layers))
    prepared = prepare(Deployment(runtime="onnxruntime"), network, layers)
    assert says in prepared.note
    uneven = "fp32" in says
    assert (prepared.integer == 0) == uneven
    assert all((layer.bias is None) == uneven for layer in layers.values()), "no whole-number bias without a kernel"
    if uneven:
        assert says in prepare(Deployment(runtime="eager"), network, layers).note
