"""A runtime that crashes, hangs or fails on a model ends a process, and not this one."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import Cancelled, Quantization, WorkbenchError, runtimes
from workbench.inputs import Inputs
from workbench.network import Network
from workbench.quantization.quantizer import specs
from workbench.recipe import Deployment
from workbench.runtimes import isolation

MODULE = """
import os, signal, time
from pathlib import Path

class Runtime:
    takes = "graph"
    compiles = False
    def __init__(self, name, log): self.name, self.log = name, log
    def unavailable(self): return None
    def devices(self): return ["cpu"]
    def version(self): return "1"
    def supports(self, deployment, source): return None
    def prepare(self, source, layers, deployment):
        with Path(self.log).open("a") as file: file.write(f"{os.getpid()}\\n")
        getattr(self, self.name)()
        return self
    def run(self, batch): pass
    def works(self): pass
    def crashes(self): os.kill(os.getpid(), signal.SIGSEGV)
    def hangs(self): time.sleep(600)
    def raises(self): raise ValueError("the operator Foo is unknown\\nmore")
    def prints(self): print("answer"); os.system("echo answer")
"""


class Own(nn.Module):
    """Of a class that nobody has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x).relu()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(Own().eval(), Inputs(torch.randn(20, 4)), 1, tmp_path_factory.mktemp("graphs"))


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runtimes of a module of its own; the file tells the processes that prepared."""
    (tmp_path / "strange_runtimes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strange_runtimes", raising=False)
    monkeypatch.setattr(isolation, "_answers", {})
    import strange_runtimes

    names = ("works", "crashes", "hangs", "raises", "prints")
    made = tuple(strange_runtimes.Runtime(name, str(tmp_path / "log")) for name in names)
    monkeypatch.setattr(runtimes, "RUNTIMES", (*runtimes.RUNTIMES, *made))
    return tmp_path / "log"


def prepared(name: str, network: Network) -> object:
    return runtimes.prepare(Deployment(runtime=name), network, {})


def refused(name: str, network: Network) -> str:
    with pytest.raises(WorkbenchError) as told:
        prepared(name, network)
    return str(told.value)


def test_what_works_is_tried_elsewhere_once_and_then_prepared_here(strange: Path, own: Network) -> None:
    prepared("works", own)
    prepared("works", own)
    where = strange.read_text().split()
    assert len(where) == 3
    assert where[0] != str(os.getpid())
    assert where[1:] == [str(os.getpid())] * 2


def test_a_crash_is_told_and_remembered_and_the_next_trial_works(strange: Path, own: Network) -> None:
    said = refused("crashes", own)
    assert "crashes crashed on this model (SIGSEGV)" in said
    assert refused("crashes", own) == said
    assert len(strange.read_text().split()) == 1
    prepared("works", own)


def test_what_is_not_done_in_time_is_ended(strange: Path, own: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared("works", own)  # the process has started
    monkeypatch.setattr(isolation, "SECONDS", 1.0)
    assert "hangs was not done with this model after 1 s" in refused("hangs", own)
    other = int(strange.read_text().split()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)


def test_one_batch_does_not_vouch_for_another(strange: Path, own: Network) -> None:
    for more in ({}, {"batch": 64}, {"batch": 64, "threads": 2}, {"batch": 64}):
        runtimes.prepare(Deployment(runtime="works", **more), own, {})
    elsewhere = [process for process in strange.read_text().split() if process != str(os.getpid())]
    assert len(elsewhere) == 3


def test_a_cancel_ends_a_trial_and_what_waits_for_one(strange: Path, own: Network) -> None:
    prepared("works", own)
    first, second = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        hanging = pool.submit(runtimes.prepare, Deployment(runtime="hangs"), own, {}, first)
        until(lambda: len(strange.read_text().split()) == 3)
        prepared("works", own)  # known already: it waits for nobody
        waiting = pool.submit(runtimes.prepare, Deployment(runtime="prints"), own, {}, second)
        second.set()
        with pytest.raises(Cancelled):
            waiting.result(30)
        assert not hanging.done()
        first.set()
        with pytest.raises(Cancelled):
            hanging.result(30)
    with pytest.raises(ProcessLookupError):
        os.kill(int(strange.read_text().split()[2]), 0)
    prepared("prints", own)  # neither was remembered, and the next trial works


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_what_is_exported_meets_native_code_elsewhere_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def crashed(trial: Any, _: object) -> str:
        asked.append((trial.runtime.name, trial.deployment.batch))
        return "onnxruntime crashed on this model (SIGSEGV)."

    inputs = torch.randn(60, 4)
    bench = wb.Bench(Own().eval(), wb.Task.fidelity(inputs, calibration=inputs), store=wb.store.Store(tmp_path / "s"))
    monkeypatch.setattr(isolation, "_answers", {})
    monkeypatch.setattr(isolation, "_asked", crashed)
    monkeypatch.setattr("workbench.exporting.exporter._compared", lambda *_: pytest.fail("it was loaded here"))
    with pytest.raises(WorkbenchError, match=r"own\.onnx was not written: onnxruntime crashed"):
        bench.export(wb.Recipe(), tmp_path / "own.onnx")
    assert asked == [("onnxruntime", bench._network.batch)]
    assert [each.name for each in tmp_path.iterdir()] == ["s"]


def test_an_exception_becomes_a_sentence(strange: Path, own: Network) -> None:
    assert refused("raises", own) == "raises cannot take the model: ValueError: the operator Foo is unknown"


def test_what_a_library_prints_is_no_answer(strange: Path, own: Network) -> None:
    prepared("prints", own)


def test_a_runtime_that_another_process_cannot_import_is_told_what_to_do(
    strange: Path, own: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = runtimes.get("works")

    class Local(type(works)):  # type: ignore[misc]
        pass

    local = Local("works", works.log)
    local.name = "local"
    monkeypatch.setattr(runtimes, "RUNTIMES", (local,))
    assert "module that can be imported" in refused("local", own)


def test_our_own_runtimes_take_a_strange_model_after_a_trial(own: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    trials: list[str] = []

    def asked(trial: object, _: object) -> None:
        trials.append(trial.runtime.name)  # type: ignore[attr-defined]

    monkeypatch.setattr(isolation, "_answers", {})
    monkeypatch.setattr(isolation, "_asked", asked)
    layers = own.quantized(specs(Quantization(weight_bits=8, activation_bits=8), own.layers))
    fewer = own.quantized(specs(Quantization(weight_bits=5, activation_bits=7), own.layers))
    for name in ("onnxruntime", "openvino", "eager"):
        for some in ({}, layers, fewer):
            runtimes.prepare(Deployment(runtime=name), own, some)
    assert trials == ["onnxruntime", "onnxruntime", "openvino", "openvino"]


def test_models_of_known_layers_are_not_tried_by_our_own_runtimes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_asked", lambda *_: pytest.fail("tried"))
    network = Network(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), Inputs(torch.randn(20, 4)), 1, tmp_path)
    runtimes.prepare(Deployment(), network, {})


def test_a_trial_carries_the_graph_and_the_numbers(own: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_answers", {})
    layers = own.quantized(specs(Quantization(weight_bits=8, activation_bits=8), own.layers))
    made = runtimes.prepare(Deployment(batch=3), own, layers)
    assert made.integer == 1
    assert list(isolation._answers.values()) == [None]
