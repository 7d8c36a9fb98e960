"""The contract that every runtime keeps."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench import Quantization, WorkbenchError, runtimes
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment

NAMES = [runtime.name for runtime in runtimes.RUNTIMES]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [1, 7])
def test_fp32_is_the_model(bench: wb.Bench, name: str, batch: int) -> None:
    inputs = bench.task.inputs[:batch]
    with torch.inference_mode():
        expected = inputs.call(bench._network.module)
    made = runtimes.prepare(Deployment(runtime=name), bench._network, {}).run(inputs)
    assert torch.allclose(made, expected, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_quantized_weights_run_and_the_model_is_left_alone(bench: wb.Bench, name: str) -> None:
    network = bench._network
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    asked = specs(Quantization(weight_bits=3), network.layers)
    made = runtimes.prepare(Deployment(runtime=name), network, network.quantized(asked)).run(bench.task.inputs[:50])
    assert torch.allclose(made, network.simulation.run(bench.task.inputs[:50], asked), atol=1e-3)
    assert all(torch.equal(before[key], value) for key, value in network.module.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_of_the_process_is_put_back(bench: wb.Bench, name: str) -> None:
    before = torch.get_num_threads()
    runtimes.prepare(Deployment(runtime=name, threads=before + 1), bench._network, {}).run(bench.task.inputs[:2])
    assert torch.get_num_threads() == before


def test_eager_says_that_it_has_no_integer_kernels(bench: wb.Bench) -> None:
    network = bench._network
    layers = network.quantized(specs(Quantization(weight_bits=8, activation_bits=8), network.layers))
    assert "fp32" in (runtimes.prepare(Deployment(runtime="eager"), network, layers).note or "")


def test_offers_say_why_something_is_not_here() -> None:
    assert ("cpu", None) in runtimes.device_offers()
    for name, reason in (*runtimes.offers(), *runtimes.device_offers()):
        assert reason is None or name in reason
    if not torch.cuda.is_available():
        assert dict(runtimes.device_offers())["cuda"] == "cuda: not on this machine"


def test_an_unknown_runtime_offers_the_nearest() -> None:
    with pytest.raises(WorkbenchError, match="'onnxruntime'"):
        runtimes.get("onnxruntim")
