"""What every runtime keeps to, on the processor: what it says before is true, and what it runs is what is simulated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import workbench as wb
from workbench import Quantization, WorkbenchError, runtimes
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment
from workbench.runtimes.base import Prepared, Runtime
from workbench.runtimes.torch_qdq import no_integers

HERE = [runtime for runtime in runtimes.RUNTIMES if runtime.unavailable() is None]
GRAPHS = [runtime for runtime in HERE if runtime.takes == "graph"]
COMPILING = [r for r in HERE if r.name == "inductor" and no_integers(Deployment()) is None]
INTEGER = GRAPHS + COMPILING
W8A8 = Quantization(weight_bits=8, activation_bits=8)

every = pytest.mark.parametrize("runtime", HERE, ids=lambda runtime: runtime.name)
of_graphs = pytest.mark.parametrize("runtime", GRAPHS, ids=lambda runtime: runtime.name)
with_integers = pytest.mark.parametrize("runtime", INTEGER, ids=lambda runtime: runtime.name)


@pytest.fixture(scope="module")
def seed(bench: wb.Bench) -> Network:
    return bench._network


@pytest.fixture(scope="module")
def plain(seed: Network) -> dict[str, Prepared]:
    """In fp32, prepared once: some compile for seconds."""
    made: dict[str, Prepared] = {}
    for runtime in HERE:
        made[runtime.name] = runtimes.prepare(Deployment(runtime=runtime.name, batch=2), seed, {})
    return made


def simulated(network: Network, quantization: Quantization, inputs: Inputs) -> torch.Tensor:
    asked = specs(quantization, network.layers)
    return torch.cat([network.simulation.run(inputs[at : at + 500], asked) for at in range(0, len(inputs), 500)])


def deployed(network: Network, quantization: Quantization, inputs: Inputs, runtime: str) -> torch.Tensor:
    layers = network.quantized(specs(quantization, network.layers))
    made = runtimes.prepare(Deployment(runtime=runtime, batch=500), network, layers)
    return torch.cat([made.run(inputs[at : at + 500]) for at in range(0, len(inputs), 500)])


@every
def test_fp32_is_the_model_for_any_batch(seed: Network, plain: dict[str, Prepared], runtime: Runtime) -> None:
    for size in (2, 5):
        inputs = Inputs(torch.randn(size, 1, 28, 28, generator=torch.Generator().manual_seed(size)))
        torch.testing.assert_close(plain[runtime.name].run(inputs), seed.call(inputs), atol=1e-4, rtol=1e-4)


@every
def test_bound_calls_compute_and_leave_the_batch_alone(
    seed: Network, plain: dict[str, Prepared], runtime: Runtime
) -> None:
    inputs = Inputs(torch.randn(2, 1, 28, 28))
    before = inputs.tensors[0].clone()
    call = plain[runtime.name].bound(inputs)
    call()
    call()
    assert torch.equal(inputs.tensors[0], before)


@every
def test_what_is_refused_at_once_is_refused_by_prepare_in_the_same_words(seed: Network, runtime: Runtime) -> None:
    for changes in ({"precision": "bf16"}, {"device": "mps"}, {"device": "npu"}):
        deployment = Deployment(runtime=runtime.name, **changes)
        reason = runtimes.refusal(deployment, seed)
        if reason is not None:
            assert runtime.name in reason
            with pytest.raises(WorkbenchError) as told:
                runtimes.prepare(deployment, seed, {})
            assert str(told.value) == reason


@every
def test_nothing_is_refused_that_runs(seed: Network, plain: dict[str, Prepared], runtime: Runtime) -> None:
    assert runtimes.refusal(Deployment(runtime=runtime.name), seed) is None
    assert plain[runtime.name].note is None
    assert plain[runtime.name].integer == 0


@pytest.mark.parametrize("runtime", [r for r in HERE if not r.compiles], ids=lambda runtime: runtime.name)
def test_bfloat16_is_near_and_not_the_same(seed: Network, runtime: Runtime) -> None:
    deployment = Deployment(runtime=runtime.name, precision="bf16")
    if runtimes.refusal(deployment, seed) is not None:
        pytest.skip("no bfloat16 here")
    inputs = wb.zoo.task().inputs[:200]
    made, wanted = runtimes.prepare(deployment, seed, {}).run(inputs), seed.call(inputs)
    assert made.dtype == torch.float32
    assert 1e-4 < float((made - wanted).abs().max() / wanted.abs().max()) < 0.05


@with_integers
@pytest.mark.parametrize(("bits", "least"), [(8, 0.999), (4, 0.995)])
def test_what_runs_is_what_is_simulated(seed: Network, runtime: Runtime, bits: int, least: float) -> None:
    inputs = wb.zoo.task().inputs[:2000]
    quantization = Quantization(weight_bits=bits, activation_bits=8)
    one, other = simulated(seed, quantization, inputs), deployed(seed, quantization, inputs, runtime.name)
    assert (one.argmax(1) == other.argmax(1)).float().mean() >= least
    # sharper than the classes: only a value halfway between two grid points may go the other way
    assert (one - other).abs().median() < 1e-4


@of_graphs  # inductor takes ten seconds for each: see test_torch_qdq
@pytest.mark.parametrize(
    "quantization",
    [
        Quantization(weight_bits=8),
        Quantization(weight_bits=4, activation_bits=4),
        Quantization(activation_bits=6),
        Quantization(weight_bits=3, activation_bits=5, scheme="affine"),
        Quantization(weight_bits=4, activation_bits=8, scheme="mx"),
        Quantization(weight_bits=8, activation_bits=8, layers={"conv2": {"activation_bits": None}}),
    ],
    ids=repr,
)
def test_other_recipes_agree_too(seed: Network, runtime: Runtime, quantization: Quantization) -> None:
    inputs = wb.zoo.task().inputs[:500]
    one, other = simulated(seed, quantization, inputs), deployed(seed, quantization, inputs, runtime.name)
    assert (one - other).abs().median() < 1e-4
    assert (one.argmax(1) == other.argmax(1)).float().mean() >= 0.99


@with_integers
def test_integer_kernels_run_and_are_counted(seed: Network, runtime: Runtime) -> None:
    layers = seed.quantized(specs(W8A8, seed.layers))
    made = runtimes.prepare(Deployment(runtime=runtime.name), seed, layers)
    assert (made.integer, made.note) == (len(seed.layers), None)
    some = {name: layer for name, layer in layers.items() if name.startswith("conv")}
    fewer = runtimes.prepare(Deployment(runtime=runtime.name), seed, some)
    assert 0 < fewer.integer <= len(some)
    assert (fewer.note is None) == (fewer.integer == len(some))


@with_integers
def test_weights_alone_leave_activations_in_floating_point(seed: Network, runtime: Runtime) -> None:
    """Some runtimes would round them to 8 bits as they go."""
    layers = seed.quantized(specs(Quantization(weight_bits=8), seed.layers))
    made = runtimes.prepare(Deployment(runtime=runtime.name), seed, layers)
    assert made.integer == 0
    assert "fp32" in (made.note or "")


@every
def test_threads_are_those_asked_for_and_the_process_keeps_its_own(seed: Network, runtime: Runtime) -> None:
    if runtime.compiles:
        pytest.skip("it takes its threads from torch while it compiles, and puts them back: see test_inductor")
    before = torch.get_num_threads()
    inputs = Inputs(torch.randn(3, 1, 28, 28))
    for count in (1, before + 1):
        made = runtimes.prepare(Deployment(runtime=runtime.name, threads=count), seed, {})
        torch.testing.assert_close(made.run(inputs), seed.call(inputs), atol=1e-4, rtol=1e-4)
        assert torch.get_num_threads() == before


@every
def test_an_input_of_a_wrong_shape_is_an_error_and_the_next_one_runs(
    seed: Network, plain: dict[str, Prepared], runtime: Runtime
) -> None:
    with pytest.raises(Exception):  # noqa: B017 - the runtimes' own
        plain[runtime.name].run(Inputs(torch.randn(2, 3, 5, 5)))
    inputs = Inputs(torch.randn(2, 1, 28, 28))
    assert np.isfinite(plain[runtime.name].run(inputs).numpy()).all()
