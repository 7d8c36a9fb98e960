"""What can be chosen, and what is said of it."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench import Quantization, Recipe, WorkbenchError, runtimes
from workbench.errors import RecipeError
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment

NAMES = [runtime.name for runtime in runtimes.RUNTIMES if not runtime.compiles and not runtime.unavailable()]


@pytest.mark.parametrize("name", NAMES)
def test_quantized_weights_run_and_the_model_is_left_alone(bench: wb.Bench, name: str) -> None:
    network = bench._network
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    asked = specs(Quantization(weight_bits=3), network.layers)
    made = runtimes.prepare(Deployment(runtime=name), network, network.quantized(asked)).run(bench.task.inputs[:50])
    assert torch.allclose(made, network.simulation.run(bench.task.inputs[:50], asked), atol=1e-3)
    assert all(torch.equal(before[key], value) for key, value in network.module.state_dict().items())


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


def test_runtimes_of_modules_offer_the_same_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("eager", "inductor"):
        assert list(runtimes.get(name).devices())[:4] == ["cpu", "cuda", "cuda:0", "cuda:1"]


def test_an_unknown_runtime_offers_the_nearest() -> None:
    with pytest.raises(WorkbenchError, match="'onnxruntime'"):
        runtimes.get("onnxruntim")


def test_the_precision_is_written_where_it_is_not_the_usual_one() -> None:
    usual, other = Recipe(), Recipe(deployment=Deployment(runtime="openvino", precision="bf16"))
    assert "precision" not in usual.to_json()
    assert Recipe.from_json(other.to_json()) == other
    assert other.key != Recipe(deployment=Deployment(runtime="openvino")).key


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "gpu", "gpu.1", "npu", "mps", "directml", "coreml"])
def test_devices_of_all_libraries_can_be_named(device: str) -> None:
    assert Deployment(device=device).device == device


def test_a_recipe_that_its_runtime_cannot_run_is_refused_before_anything_runs(bench: wb.Bench) -> None:
    with pytest.raises(RecipeError, match="deployment: onnxruntime has no kernels for bf16; choose fp32, or"):
        bench.check(Recipe(deployment=Deployment(precision="bf16")))
    with pytest.raises(RecipeError, match="there is no device 'npu'"):
        bench.check(Recipe(deployment=Deployment(device="npu")))


def test_what_a_runtime_raises_is_told_in_words(bench: wb.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise IndexError("vector::_M_range_check\nand more")

    monkeypatch.setattr(type(runtimes.get("eager")), "prepare", broken)
    with pytest.raises(WorkbenchError, match=r"^eager cannot take the model: IndexError: vector::_M_range_check$"):
        runtimes.prepare(Deployment(runtime="eager"), bench._network, {})
