"""The simulated network against the same network quantized the slow way, with torch's own functions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from workbench import Quantization
from workbench.inputs import Inputs
from workbench.layers import Layer
from workbench.quantization.calibration import observe
from workbench.quantization.finding import find_layers
from workbench.quantization.quantizer import Quantizer, specs
from workbench.quantization.simulation import Simulation


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.head = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.a(x))
        x = x + torch.relu(self.norm(self.b(x)))
        return self.head(self.up(x).mean((2, 3)))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # data-dependent: cannot be traced
            x = x * 2
        return self.two(F.relu(self.one(x)))


MODELS = {
    "chain": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4)),
        (2, 8, 8),
    ),
    "residual": (Residual, (2, 8, 8)),
    "untraceable": (Untraceable, (6,)),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(3, 6, 3, dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)),
        (3, 12),
    ),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 2)), (1, 4, 4, 4)),
    "circular": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Flatten()),
        (2, 6, 6),
    ),
    "twice": (lambda: (lambda layer: nn.Sequential(layer, nn.ReLU(), layer))(nn.Linear(5, 5)), (5,)),
}
SETTINGS = {
    "w8a8": Quantization(weight_bits=8, activation_bits=8),
    "w4": Quantization(weight_bits=4),
    "a5": Quantization(activation_bits=5, range="minmax"),
    "affine tensor": Quantization(weight_bits=3, activation_bits=6, scheme="affine", granularity="tensor"),
    "naive": Quantization(weight_bits=6, activation_bits=6, method="naive"),
    "fp32": Quantization(),
}


def prepared(name: str) -> tuple[nn.Module, dict[str, Layer], Simulation, Inputs]:
    torch.manual_seed(3)
    make, shape = MODELS[name]
    model = make().eval()
    x = Inputs(torch.randn(40, *shape))
    layers, _ = find_layers(model, x)
    simulation = Simulation(model, layers, Quantizer(layers, lambda: observe(model, layers, x)), x[:2])
    return model, layers, simulation, x


def oracle(model: nn.Module, simulation: Simulation, asked: dict, x: Inputs) -> torch.Tensor:
    """Deep copy, weights overwritten and inputs hooked, with torch.fake_quantize_*."""
    slow = copy.deepcopy(model)
    for name, spec in asked.items():
        made, module = simulation.quantizer.layer(name, spec), slow.get_submodule(name)
        if (g := made.weight_grid) is not None:
            if g.axis is None:
                fake = torch.fake_quantize_per_tensor_affine(
                    module.weight, float(g.scale), int(g.zero_point), g.quant_min, g.quant_max
                )
            else:
                fake = torch.fake_quantize_per_channel_affine(
                    module.weight, g.scale, g.zero_point, g.axis, g.quant_min, g.quant_max
                )
            module.weight.data = fake.detach()
            if module.bias is not None and made.activation_grid is not None:  # an integer kernel's bias
                step = (g.scale * made.activation_grid.scale).double()
                step = step.repeat(len(module.bias) // step.numel()) if step.dim() else step
                module.bias.data = ((module.bias.detach() / step).round().float() * step.float()).detach()
        if (g := made.activation_grid) is not None:
            module.register_forward_pre_hook(
                lambda _, args, g=g: (
                    torch.fake_quantize_per_tensor_affine(
                        args[0], float(g.scale), int(g.zero_point), g.quant_min, g.quant_max
                    ),
                )
            )
    with torch.inference_mode():
        return x.call(slow)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", MODELS, ids=str)
def test_agrees_bit_for_bit_with_torch(name: str, setting: str) -> None:
    model, layers, simulation, x = prepared(name)
    asked = specs(SETTINGS[setting], layers)
    assert torch.equal(simulation.run(x, asked), oracle(model, simulation, asked, x))


@pytest.mark.parametrize("name", MODELS, ids=str)
def test_the_model_is_left_as_it_was(name: str) -> None:
    model, layers, simulation, x = prepared(name)
    before = copy.deepcopy(model.state_dict())
    for setting in SETTINGS.values():
        simulation.run(x, specs(setting, layers), key=0)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", MODELS, ids=str)
def test_starting_from_a_remembered_stage_changes_nothing(name: str) -> None:
    _, layers, simulation, x = prepared(name)
    base = Quantization(weight_bits=4, activation_bits=8)
    simulation.run(x, specs(base, layers), key="batch")
    for layer in layers:
        for bits in ({"weight_bits": 2}, {"activation_bits": 3}, {"weight_bits": None, "activation_bits": None}):
            asked = specs(base.replace(layers={layer: bits}), layers)
            assert torch.equal(simulation.run(x, asked, key="batch"), simulation.run(x, asked))


def test_only_what_comes_after_a_change_runs_again() -> None:
    model, layers, simulation, x = prepared("chain")
    assert simulation.quantizer.observations  # calibrated before, so that its runs do not count
    calls: list[str] = []
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    simulation.run(x, specs(Quantization(), layers), key=1)
    assert calls == ["0", "1", "2", "3", "4"]
    calls.clear()
    simulation.run(x, specs(Quantization(layers={"4": {"activation_bits": 4}}), layers), key=1)
    assert calls == ["4"]


def test_memory_for_remembered_stages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.quantization.simulation.REMEMBER_BYTES", 100_000)
    _, layers, _, x = prepared("chain")
    simulation = Simulation(*_rebuilt("chain"), batches=2)
    for key in range(30):
        simulation.run(x, specs(Quantization(), layers), key=key)
    held = simulation._remembered._held
    assert held
    assert sum(tensor.nbytes for tensor in held.values()) <= 100_000


def _rebuilt(name: str) -> tuple[nn.Module, dict[str, Layer], Quantizer, Inputs]:
    model, layers, simulation, x = prepared(name)
    return model, layers, simulation.quantizer, x[:2]
