"""A folder that runs elsewhere, with nothing but onnxruntime and numpy, and gives what was simulated."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from html.parser import HTMLParser
from importlib.metadata import distribution, files, requires
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import workbench as wb
from workbench import Deployment, Quantization, Recipe, Report, Task, WorkbenchError
from workbench.exporting.agreement import Agreement
from workbench.quantization.quantizer import specs
from workbench.runtimes import onnx_runtime
from workbench.runtimes.onnx_runtime import opened, options_for, written
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parent.parent))  # what several tests share
from any_models import made

W8A8 = Recipe(quantization=Quantization(weight_bits=8, activation_bits=8))
OURS = ("torch", "workbench", "onnx", "safetensors", "pydantic")


def needed(*names):
    """Distributions, and what these need."""
    found = set(names)
    for name in names:
        wanted = [text for text in requires(name) or () if "extra ==" not in text]
        found |= needed(*(re.split(r"[^\w.-]", text)[0] for text in wanted))
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs a script in an environment of its own, in which onnxruntime, numpy and what these need are all there is."""
    home = tmp_path_factory.mktemp("elsewhere") / "environment"
    venv.create(home, symlinks=os.name != "nt", with_pip=False)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def run(*arguments):
        return subprocess.run([python, "-I", *map(str, arguments)], capture_output=True, text=True, cwd="/")

    packages = Path(run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    assert packages.is_relative_to(home) and not list(packages.iterdir())
    for name in needed("onnxruntime", "numpy"):
        for part in {file.parts[0] for file in files(name)} - {"..", "__pycache__"}:
            (packages / part).symlink_to(distribution(name).locate_file(part))
    return run


def test_the_environment_has_none_of_ours(alone):
    look = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    assert alone("-c", look, *OURS, "onnxruntime", "numpy").stdout.strip() == "['onnxruntime', 'numpy']"


@pytest.fixture(scope="module")
def seed_folder(bench, tmp_path_factory):
    return bench.export(W8A8, tmp_path_factory.mktemp("out") / "seed")


def test_it_runs_without_us_and_equals_the_simulation_on_100_images(bench, seed_folder, alone, tmp_path):
    done = alone(seed_folder / "run.py", seed_folder / "inputs.npy", tmp_path / "outputs.npy")
    assert done.returncode == 0, done.stderr
    outputs = np.load(tmp_path / "outputs.npy")
    network = bench._network
    wanted = network.simulation.run(bench.task.inputs[:100], specs(W8A8.quantization, network.layers)).numpy()
    assert outputs.shape == (100, 10) and (outputs.argmax(1) == wanted.argmax(1)).all()
    assert np.linalg.norm(outputs - wanted) <= 2e-3 * np.linalg.norm(wanted)
    assert np.allclose(np.load(seed_folder / "expected.npy"), wanted, atol=1e-4)
    assert (np.load(seed_folder / "inputs.npy") == bench.task.inputs.tensors[0][:100].numpy()).all()
    assert len((seed_folder / "run.py").read_text().splitlines()) <= 15


def test_its_own_check_passes_and_notices_other_outputs(seed_folder):
    def check():
        done = subprocess.run([sys.executable, "-I", seed_folder / "check.py"], capture_output=True, text=True)
        (seed_folder / "outputs.npy").unlink()
        return done

    done = check()
    assert done.returncode == 0 and "100 outputs differ from the simulation's by 0." in done.stdout, done.stderr
    expected = np.load(seed_folder / "expected.npy")
    try:
        np.save(seed_folder / "expected.npy", np.roll(expected, 1, axis=1))
        assert check().returncode == 1
    finally:
        np.save(seed_folder / "expected.npy", expected)


def test_it_holds_what_its_reader_needs_and_nothing_else(bench, seed_folder):
    names = {each.name for each in seed_folder.iterdir()}
    assert names == {
        "model.onnx", "run.py", "check.py", "inputs.npy", "expected.npy", "recipe.json", "report.json", "report.html",
        "agreement.json", "requirements.txt", "README.md",
    }  # fmt: skip
    report = Report.model_validate(json.loads((seed_folder / "report.json").read_text()))
    assert report == bench.measure(W8A8) and report.latency is not None
    assert Recipe.from_json((seed_folder / "recipe.json").read_text()) == W8A8
    agreement = Agreement.model_validate(json.loads((seed_folder / "agreement.json").read_text()))
    assert agreement.rate.value > 0.999
    needed = [re.split(r"[>=]", line)[0] for line in (seed_folder / "requirements.txt").read_text().split()]
    assert needed == ["numpy", "onnxruntime"]
    told = (seed_folder / "README.md").read_text()
    assert "python run.py" in told and "Apache-2.0" in told and str(agreement) in told
    assert "shape (n, 1, 28, 28)" in told


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links, self.text, self.open = set(), [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_from_elsewhere(bench, seed_folder):
    content = (seed_folder / "report.html").read_text()
    page = Reader()
    page.feed(content)
    assert not page.open and not page.links and not page.tags & {"script", "link", "img", "iframe"}
    assert "url(" not in content and "@import" not in content and "http" not in content
    for said in ("seed-cnn: W8 A8", "conv1", "simulated", "measured", "10,000 of 10,000 examples"):
        assert said in page.text
    assert f"{100 * bench.measure(W8A8).accuracy.value:.4g} %" in page.text


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    model, inputs = made("two inputs")
    task = Task.fidelity(inputs, calibration=inputs)
    return wb.Bench(model, task, name="<two & more>", store=Store(tmp_path_factory.mktemp("store")))


def test_several_inputs_have_their_names(two, alone, tmp_path):
    folder = two.export(W8A8, tmp_path / "two")
    done = alone(folder / "run.py", folder / "inputs.npz", tmp_path / "outputs.npy")
    assert done.returncode == 0, done.stderr
    expected = np.load(folder / "expected.npy")
    assert np.linalg.norm(np.load(tmp_path / "outputs.npy") - expected) <= 0.02 * np.linalg.norm(expected)
    page = (folder / "report.html").read_text()
    assert "&lt;two &amp; more&gt;" in page and "<two" not in page
    assert "is not known here" in (folder / "README.md").read_text()


def test_weights_that_stay_in_fp32_do_so_elsewhere(two, alone, tmp_path):
    folder = two.export(Recipe(quantization=Quantization(activation_bits=8)), tmp_path / "two")
    assert "WeightBiasQuantization" in (folder / "run.py").read_text()
    assert alone(folder / "check.py").returncode in (0, 1)  # it runs
    assert "disabled" not in (two.export(W8A8, tmp_path / "other") / "run.py").read_text()


@pytest.mark.parametrize(
    "quantization",
    [
        Quantization(weight_bits=8),
        Quantization(weight_bits=8, activation_bits=8, layers={"fc1": {"activation_bits": None}}),
    ],
    ids=["weights alone", "mixed"],
)
def test_the_script_runs_the_kernels_that_were_timed(bench, alone, quantization, tmp_path):
    recipe = Recipe(quantization=quantization, deployment=Deployment(threads=2))
    folder = bench.export(recipe, tmp_path / "seed")
    script = (folder / "run.py").read_text()
    assert "options.intra_op_num_threads = 2\n" in script
    kept = f"options.optimized_model_filepath = {str(tmp_path / 'there.onnx')!r}\nsession ="
    (folder / "kept.py").write_text(script.replace("session =", kept))
    done = alone(folder / "kept.py", folder / "inputs.npy", tmp_path / "outputs.npy")
    assert done.returncode == 0, done.stderr
    subject = bench._subject(recipe, None)
    options = options_for(subject.layers, recipe.deployment)
    options.optimized_model_filepath = str(tmp_path / "here.onnx")
    opened(written(subject.source.graph, subject.layers)[0], options, recipe.deployment)
    there, here = ([n.op_type for n in onnx.load(tmp_path / name).graph.node] for name in ("there.onnx", "here.onnx"))
    assert there == here
    unpacked_at_each_call = there.count("DequantizeLinear") > (
        1 if quantization.activation_bits else 0
    )  # of an activation
    assert not unpacked_at_each_call


def test_large_matrices_of_4_bits_stay_packed_elsewhere(bench, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "PACKED_WEIGHTS", 2**15)
    quantization = Quantization(weight_bits=4, granularity="group", group_size=32)
    folder = bench.export(Recipe(quantization=quantization), tmp_path / "seed")
    assert [n.name for n in onnx.load(folder / "model.onnx").graph.node if n.op_type == "MatMulNBits"]
    assert alone(folder / "check.py").returncode == 0
    plain = onnx.load(bench.export(Recipe(quantization=quantization), tmp_path / "plain.onnx"))
    assert {node.domain for node in plain.graph.node} == {""}  # others read this one


def test_an_export_takes_the_place_of_another_whole(two, tmp_path, monkeypatch):
    folder = two.export(Recipe(), tmp_path / "two")
    (folder / "old").write_text("of the first export")
    with pytest.raises(WorkbenchError, match="exists; pass overwrite=True"):
        two.export(W8A8, folder)
    really = os.replace

    def replace(source, target):
        if Path(target) == folder and ".partial" in str(source):
            raise OSError(30, "Read-only file system")
        really(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("workbench.exporting.placing.os.replace", replace)
        with pytest.raises(WorkbenchError, match="cannot be written: Read-only file system"):
            two.export(W8A8, folder, overwrite=True)
    assert Recipe.from_json((folder / "recipe.json").read_text()) == Recipe() and (folder / "old").exists()
    assert list(tmp_path.iterdir()) == [folder]
    two.export(W8A8, folder, overwrite=True)
    assert Recipe.from_json((folder / "recipe.json").read_text()) == W8A8 and not (folder / "old").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_script_that_fails_is_not_shipped(two, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.exporting.folder.RUN", "raise SystemExit('no such kernel')\n")
    with pytest.raises(WorkbenchError, match=r"run\.py failed: no such kernel"):
        two.export(W8A8, tmp_path / "two")
    assert not list(tmp_path.iterdir())


def test_large_examples_are_few(bench, monkeypatch):
    from workbench.exporting import folder

    assert len(folder._some(bench.task.inputs)) == 100
    monkeypatch.setattr(folder, "EXAMPLE_BYTES", 28 * 28 * 4 * 10)
    assert len(folder._some(bench.task.inputs)) == 10
    monkeypatch.setattr(folder, "EXAMPLE_BYTES", 1)
    assert len(folder._some(wb.Inputs(torch.zeros(9, 3)))) == 4
