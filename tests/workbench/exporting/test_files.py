"""What was written runs without us and gives what was simulated, or nothing is written."""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

import workbench as wb
from workbench import Quantization, Recipe, Task, WorkbenchError
from workbench.delivery import artifact
from workbench.errors import Cancelled
from workbench.exporting.formats import FORMATS
from workbench.exporting.onnx_graph import OnnxGraph
from workbench.exporting.rounded import Rounded
from workbench.loading.onnx_session import OnnxModule
from workbench.outputs import selected
from workbench.quantization.quantizer import specs
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parent.parent))  # what several tests share
from any_models import made

ENDINGS = [each.ending for each in FORMATS]
EVERY = pytest.mark.parametrize("ending", ENDINGS)
W8A8 = Recipe(quantization=Quantization(weight_bits=8, activation_bits=8))
W3A6 = Recipe(quantization=Quantization(weight_bits=3, activation_bits=6, layers={"fc": {"weight_bits": 8}}))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        return {"hidden": x, "logits": self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.manual_seed(0)
    inputs = torch.randn(130, 3, 8, 8)
    return wb.Bench(
        Net(), Task.fidelity(inputs, calibration=inputs), name="<net>", store=Store(tmp_path_factory.mktemp("store"))
    )


def simulated(bench, recipe):
    network = bench._network
    asked = specs(recipe.quantization, network.layers)
    return selected(network.simulation.run(bench.task.inputs.channels_last(), asked), bench.task.output)


def run_without_us(path, inputs):
    """Outputs, by the library that the file is for alone."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(inputs)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled(inputs.numpy())[0])


@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".xml"])
@pytest.mark.parametrize("recipe", [Recipe(), W8A8, W3A6], ids=["fp32", "W8A8", "mixed"])
def test_a_file_runs_without_us_as_it_was_simulated(small, tmp_path, ending, recipe):
    path = small.export(recipe, tmp_path / f"net{ending}")
    assert path == tmp_path / f"net{ending}"
    outputs, wanted = run_without_us(path, small.task.inputs.tensors[0]), simulated(small, recipe)
    # a tie in rounding moves one input of the last layer by one step
    assert (outputs - wanted).abs().max() <= 0.01 * wanted.abs().max()
    assert (outputs - wanted).norm() <= 2e-3 * wanted.norm()
    beside = {"net.bin"} if ending == ".xml" else set()
    assert {each.name for each in tmp_path.iterdir()} == {path.name, *beside}


def test_packed_weights_hold_whole_numbers_scales_and_the_recipe(small, tmp_path):
    read = artifact.read(small.export(W3A6, tmp_path / "net.safetensors").read_bytes())
    assert Recipe.from_json(read.recipe) == W3A6
    assert set(read.layers) == {"conv", "fc"} and len(read.layers["conv"].weight.unique()) <= 8
    assert read.layers["fc"].weight.dtype == torch.int8 and read.layers["fc"].weight_grid.scale.shape == (5,)


def test_every_stage_is_told_and_the_comparison_is_kept(small, tmp_path):
    states = list(small.export_stream(W8A8, tmp_path / "net.xml"))
    assert list(dict.fromkeys(state.stage for state in states)) == ["writing", "comparing", "done"]
    last = states[-1]
    assert [each.name for each in last.files] == ["net.xml", "net.bin"]
    assert last.size == sum(each.stat().st_size for each in last.files)
    assert last.agreement.examples == 130 and last.agreement.rate.value > 0.97
    assert not any(state.done for state in states[:-1])


@pytest.mark.parametrize("name", ["two inputs", "named inputs", "lstm", "tied embedding", "ragged tokens", "matmul"])
def test_other_models_are_written_or_refused_with_what_can_be(name, tmp_path):
    model, inputs = made(name)
    bench = wb.Bench(model, Task.fidelity(inputs, calibration=inputs), store=Store(tmp_path / "store"))
    out = tmp_path / "out"
    out.mkdir()
    for ending in ENDINGS:
        try:
            *_, last = bench.export_stream(W8A8, out / f"net{ending}")
            assert last.agreement.rate.value > 0.99
        except WorkbenchError as error:
            assert ending == ".pt2" and name in ("matmul", "lstm"), error
            assert ".onnx and .xml and .safetensors can be written." in str(error)


def test_named_arguments_keep_their_names(tmp_path):
    model, inputs = made("named inputs")
    bench = wb.Bench(model, Task.fidelity(inputs), store=Store(tmp_path / "store"))
    program = torch.export.load(bench.export(Recipe(), tmp_path / "net.pt2")).module()
    with torch.no_grad():
        wanted = model.eval()(**inputs).logits
    assert torch.allclose(program(**inputs), wanted, atol=1e-5)


def test_a_graph_is_written_as_a_graph(small, tmp_path):
    graph = OnnxModule(onnx.load(small.export(Recipe(), tmp_path / "net.onnx")), "It is a test.")
    bench = wb.Bench(graph, small.task, store=Store(tmp_path / "store"))
    with pytest.raises(WorkbenchError, match=r"no torch module\. \.onnx and \.xml and \.safetensors can be written"):
        bench.export(W8A8, tmp_path / "again.pt2")
    for ending in (".onnx", ".xml", ".safetensors"):
        *_, last = bench.export_stream(W8A8, tmp_path / f"again{ending}")
        assert last.agreement.rate.value > 0.97


def test_a_model_without_a_graph_says_what_it_can_be_written_as(tmp_path):
    model, inputs = made("data-dependent")
    bench = wb.Bench(model, Task.fidelity(inputs), store=Store(tmp_path / "store"))
    with pytest.raises(
        WorkbenchError, match=r"net\.onnx: the model cannot be exported to ONNX: .*\.safetensors can be"
    ):
        bench.export(W8A8, tmp_path / "net.onnx")
    bench.export(W8A8, tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.pt", r"\.onnx, \.pt2, \.xml, \.safetensors are known, and a path without an ending is a folder"),
        ("nowhere/net.onnx", "there is no folder .*nowhere; make it first"),
        ("there.onnx", r"exists; pass overwrite=True"),
        ("folder.onnx", "is a folder, and a .onnx file was asked for"),
        ("file", "is a file; a path without an ending is a folder"),
        ("full", "a folder with other files in it"),
    ],
)
def test_a_path_that_cannot_be_is_refused_before_any_work(small, tmp_path, monkeypatch, name, words):
    (tmp_path / "there.onnx").write_text("mine")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(OnnxGraph, "write", lambda *_: pytest.fail("it was written"))
    with pytest.raises(WorkbenchError, match=words):
        small.export(W8A8, tmp_path / name, overwrite=name != "there.onnx")
    assert sorted(tmp_path.rglob("*")) == before


@EVERY
def test_a_full_disk_leaves_what_was_there(small, tmp_path, ending):
    path, beside = tmp_path / f"net{ending}", tmp_path / "net.bin"
    path.write_text("mine")
    beside.write_text("mine as well")
    small.export(W8A8, tmp_path / f"warm{ending}")  # what is made on the way is kept
    for each in tmp_path.glob("warm*"):
        each.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))  # every file ends after 600 bytes
    try:
        with pytest.raises(WorkbenchError, match=rf"net\{ending} cannot be written: "):
            small.export(W8A8, path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "mine" and beside.read_text() == "mine as well"
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["net.bin", path.name])


def test_of_two_files_both_are_replaced_or_none(small, tmp_path, monkeypatch):
    for ending in (".xml", ".bin"):
        (tmp_path / f"net{ending}").write_text("mine")
    really, tried = os.replace, []

    def replace(source, target):
        tried.append(Path(target).name)
        if tried.count("net.xml") == 1 and Path(target) == tmp_path / "net.xml":
            raise OSError(28, "No space left on device")
        really(source, target)

    monkeypatch.setattr("workbench.exporting.placing.os.replace", replace)
    with pytest.raises(WorkbenchError, match="No space left"):
        small.export(W8A8, tmp_path / "net.xml", overwrite=True)
    assert "net.bin" in tried  # it was in its place already
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"net.xml": "mine", "net.bin": "mine"}


def test_a_file_that_does_something_else_is_not_kept(small, tmp_path, monkeypatch):
    """The layer's scales are wrong in the file."""
    write = OnnxGraph.write

    def wrong(self, path, network, layers, recipe):
        write(self, path, network, layers, recipe)
        graph = onnx.load(path)
        if "fc" in layers:
            for tensor in graph.graph.initializer:
                if list(tensor.dims) == [5] and tensor.data_type == onnx.TensorProto.FLOAT:
                    tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
        onnx.save(graph, path)

    monkeypatch.setattr(OnnxGraph, "write", wrong)
    with pytest.raises(WorkbenchError, match=r"net\.onnx was not written: .*the disagreement starts at fc"):
        small.export(W8A8, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_tensor_that_is_lost_in_a_file_is_noticed(small, tmp_path, monkeypatch):
    import safetensors.torch

    def without(tensors, header):
        return save({n: t + 1 if n == "fc.bias" else t for n, t in tensors.items()}, header)

    save = safetensors.torch.save
    monkeypatch.setattr("workbench.delivery.artifact.safetensors.torch.save", without)
    with pytest.raises(WorkbenchError, match=r"fc\.bias is other"):
        small.export(Recipe(), tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_two_exports_to_one_path_do_not_disturb_each_other(small, tmp_path):
    first, second = (small.export_stream(recipe, tmp_path / "net.onnx", overwrite=True) for recipe in (W8A8, Recipe()))
    next(first), next(first)  # it has written and compares
    *_, last = second
    assert last.done
    *_, last = first
    assert last.done and "QuantizeLinear" in {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]


def test_what_is_read_only_is_refused_in_words_before_any_work(small, tmp_path, monkeypatch):
    """As somebody sees it who is not root."""
    access = os.access
    forbidden = tmp_path / "net.onnx"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != forbidden and access(path, mode))
    monkeypatch.setattr(OnnxGraph, "write", lambda *_: pytest.fail("it was written"))
    forbidden.write_text("mine")
    with pytest.raises(WorkbenchError, match=r"net\.onnx is read-only; make it writable, or choose another name"):
        small.export(W8A8, forbidden, overwrite=True)
    assert forbidden.read_text() == "mine"
    forbidden = tmp_path
    for name in ("other.onnx", "folder"):
        with pytest.raises(WorkbenchError, match=r"cannot be written: the folder .* is read-only; name another one"):
            small.export(W8A8, tmp_path / name)


def test_an_export_that_is_cancelled_leaves_nothing(small, tmp_path):
    cancel = threading.Event()
    stream = small.export_stream(W8A8, tmp_path / "net.onnx", cancel=cancel)
    next(stream)
    cancel.set()
    with pytest.raises(Cancelled):
        list(stream)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["conv2d", "gru", "attention", "functional linear", "one linear", "used twice"])
def test_a_rounded_module_is_the_simulation(name, tmp_path):
    model, inputs = made(name)
    network = wb.Bench(model, Task.fidelity(inputs, calibration=inputs), store=Store(tmp_path))._network
    for quantization in (W8A8.quantization, Quantization(weight_bits=3, activation_bits=4)):
        asked = specs(quantization, network.layers)
        batch = wb.Inputs.of(inputs)
        with torch.inference_mode():
            ours = batch.call(Rounded(network, network.quantized(asked)))
        wanted = selected(network.simulation.run(batch, asked), None)
        assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        assert not np.allclose(ours, network.call(batch), rtol=1e-4)
