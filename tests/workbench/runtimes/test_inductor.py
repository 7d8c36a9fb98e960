"""What is inductor's own: one compilation for a network and batch, settings as they were, a missing compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from workbench import Quantization, WorkbenchError
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment
from workbench.runtimes import inductor, prepare

HERE = Deployment(runtime="inductor", batch=3)
needs_compiler = pytest.mark.skipif(bool(inductor.Inductor().unavailable()), reason="no C++ compiler")


def network(model: nn.Module, folder: Path) -> Network:
    torch.manual_seed(0)
    return Network(model.eval(), Inputs(torch.randn(8, 6)), 1, folder)


@needs_compiler
def test_it_compiles_once_and_leaves_torch_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    made = network(nn.Sequential(nn.Linear(6, 3), nn.Tanh()), tmp_path)
    inputs = Inputs(torch.randn(3, 6))
    before = torch.get_num_threads(), config.freezing, torch.is_grad_enabled()
    run = prepare(HERE.replace(threads=2), made, {})
    torch.testing.assert_close(run.run(inputs), made.call(inputs))
    assert (torch.get_num_threads(), config.freezing, torch.is_grad_enabled()) == before
    with monkeypatch.context() as patch:
        patch.setattr(inductor, "compiled_program", lambda *_: pytest.fail("compiled again"))
        run.bound(inputs)()
        prepare(HERE.replace(threads=2), made, {})
    asked = specs(Quantization(weight_bits=3), made.layers)
    rounded = prepare(HERE, made, made.quantized(asked))
    torch.testing.assert_close(rounded.run(inputs), made.simulation.run(inputs, asked))
    assert "fp32" in (rounded.note or "")
    torch.testing.assert_close(run.run(inputs), made.call(inputs))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) if float(x.sum().item()) > 0 else x[:, :3]


@needs_compiler
def test_a_model_that_it_cannot_compile_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="inductor cannot compile the model: "):
        prepare(HERE, network(Untraceable(), tmp_path), {})


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor.shutil, "which", lambda _: None)
    inductor._compiler_missing.cache_clear()
    try:
        assert "install" in (inductor.Inductor().unavailable() or "")
    finally:
        inductor._compiler_missing.cache_clear()
