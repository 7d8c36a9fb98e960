"""From a recipe to a report, on the real network and data."""

from __future__ import annotations

import copy
import threading
from html import escape
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

import workbench as wb
from workbench import (
    Cancelled,
    Deployment,
    Distillation,
    Finetuning,
    Quantization,
    Recipe,
    RecipeError,
    Task,
    TaskError,
    WorkbenchError,
)
from workbench.delivery import artifact
from workbench.speed.disturbances import Reading
from workbench.store import Store


def quantized(weight_bits: int, activation_bits: int | None = 8, **more: object) -> Recipe:
    return Recipe(quantization=Quantization(weight_bits=weight_bits, activation_bits=activation_bits, **more))


def tiny(store: Store, **changes: object) -> wb.Bench:
    """A small model on 900 examples: answers in milliseconds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    inputs = torch.randn(900, 1, 8, 8)
    with torch.inference_mode():
        targets = (model(inputs) + 0.3 * torch.randn(900, 3)).argmax(1)
    data = {"calibration": torch.randn(50, 1, 8, 8), "classes": 3} | changes
    return wb.Bench(model, Task.classification(inputs, targets, **data), name="tiny", store=store)


@pytest.mark.parametrize(("bits", "most"), [(8, 0.003), (4, 0.01)])
def test_accuracy_holds_at_w8_and_w4(bench: wb.Bench, bits: int, most: float) -> None:
    *_, report = bench.stream(quantized(bits))
    assert report.complete
    assert report.drop.value <= most
    assert report.accuracy.source == "simulated"


def test_naive_is_shown_as_what_it_is(bench: wb.Bench) -> None:
    *_, report = bench.stream(quantized(8, method="naive"))
    assert report.accuracy.value < 0.2
    assert report.drop.low > 0.6


def test_a_stream_grows_and_its_intervals_shrink(bench: wb.Bench) -> None:
    reports = list(bench.stream(quantized(3)))
    seen = [report.evaluated for report in reports]
    assert seen == sorted(set(seen))
    assert seen[-1] == 10_000
    assert len(reports) >= 3
    for name in ("accuracy", "drop"):
        first, last = getattr(reports[0], name), getattr(reports[-1], name)
        assert last.high - last.low < first.high - first.low
    assert reports[0].size == reports[-1].size
    assert all(report.latency is None for report in reports)


def test_the_paired_interval_is_tighter_than_the_difference_of_two(bench: wb.Bench) -> None:
    *_, report = bench.stream(quantized(4))
    accuracy, drop = report.accuracy, report.drop
    assert drop.high - drop.low < (accuracy.high - accuracy.low) / 1.5
    assert drop.value == pytest.approx((report.flips.lost - report.flips.gained) / report.flips.n)
    assert drop.value == pytest.approx(bench.baseline.accuracy.value - accuracy.value)


def test_measure_has_all_numbers(bench: wb.Bench) -> None:
    report = bench.measure(quantized(2))
    assert report.complete
    assert report.latency is not None
    assert 0 < report.latency.low <= report.latency.value <= report.latency.high < 0.1
    assert report.speedup is not None
    assert [row.name for row in report.layers] == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert all(row.cost is not None and row.sqnr is not None for row in report.layers)
    assert report.advice is not None
    assert report.advice.recipe is not None
    better = bench.measure(report.advice.recipe)
    assert better.accuracy.value > report.accuracy.value
    assert {"torch", "onnxruntime", "processor"} <= set(report.environment)
    assert "%" in str(report)
    assert "<table" in report._repr_html_()


def test_asked_twice_computed_once(bench: wb.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.measure(quantized(6))
    again = wb.zoo.load("seed-cnn", store=Store(bench.store.folder))
    monkeypatch.setattr(again._evaluation, "stream", lambda *_: pytest.fail("computed again"))
    assert again.measure(quantized(6)) == first
    assert again.known(quantized(6)) == first
    assert again.known(quantized(7)) is None


def test_other_load_while_it_is_timed_is_said_and_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = tiny(store)
    readings = iter([Reading(0.0, 0.0, 0.0, 2000.0, 0), Reading(1.0, 1.0, 50.0, 1500.0, 2)])
    with monkeypatch.context() as patch:
        patch.setattr("workbench.bench.reading", lambda: next(readings))
        report = bench.measure(quantized(8))
    said = " ".join(report.disturbances)
    assert all(word in said for word in ("void", "2000 to 1500 MHz", "container"))
    assert all(each in str(report) and escape(each) in report._repr_html_() for each in report.disturbances)
    assert tiny(Store(store.folder)).known(quantized(8)) == report


def test_a_latency_is_had_without_the_accuracy(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = tiny(store)
    monkeypatch.setattr(bench._evaluation, "stream", lambda *_: pytest.fail("examples were evaluated"))
    found = bench.latency(quantized(4))
    assert found.source == "measured"
    assert 0 < found.low <= found.value <= found.high
    with pytest.raises(RecipeError, match="there is no runtime"):
        bench.latency(Recipe(deployment=Deployment(runtime="other")))


def test_more_threads_than_processors_are_said(store: Store) -> None:
    report = tiny(store).measure(quantized(8).replace(deployment=Deployment(threads=200)))
    assert "200 threads share" in report.disturbances[0]


def test_a_runtime_that_fails_takes_nothing_else_along(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = wb.bench.runtimes.prepare

    def failing(deployment: Deployment, *arguments: object) -> object:
        raise WorkbenchError("onnxruntime crashed on this model (SIGSEGV).")

    bench = tiny(store)
    with monkeypatch.context() as patch:
        patch.setattr("workbench.bench.runtimes.prepare", failing)
        report = bench.measure(quantized(2))
        assert tiny(Store(store.folder)).known(quantized(2)) == report
    assert report.latency is None
    assert report.untimed == "onnxruntime crashed on this model (SIGSEGV)." and report.untimed in str(report)
    assert report.complete and report.advice is not None
    assert all(row.cost is not None for row in report.layers)
    assert wb.bench.runtimes.prepare is prepare
    again = bench.measure(quantized(2))  # it works now
    assert again.latency is not None and not again.untimed
    assert again.accuracy == report.accuracy


def test_a_cancel_while_it_is_timed_ends_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled(*_: object) -> object:
        raise Cancelled

    bench = tiny(store)
    monkeypatch.setattr("workbench.bench.runtimes.time", cancelled)
    with pytest.raises(Cancelled):
        bench.measure(quantized(8))
    assert bench.known(quantized(8)) is None


def test_one_layer_changes_its_row_and_the_size(bench: wb.Bench) -> None:
    *_, before = bench.stream(quantized(4))
    *_, after = bench.stream(quantized(4, layers={"fc1": {"weight_bits": 2}}))
    rows = {row.name: row for row in after.layers}
    assert rows["fc1"].weight_bits == 2
    assert rows["conv1"].weight_bits == 4
    assert before.size.value - after.size.value == pytest.approx(576 * 64 * 2 / 8, abs=200)


def test_the_size_is_that_of_the_exported_file(bench: wb.Bench, tmp_path: Path) -> None:
    recipe = quantized(3, layers={"fc2": {"weight_bits": None}})
    *_, report = bench.stream(recipe)
    path = bench.export(recipe, tmp_path / "model.safetensors")
    assert path.stat().st_size == report.size.value
    read = artifact.read(path.read_bytes())
    assert Recipe.from_json(read.recipe) == recipe
    assert set(read.layers) == {"conv1", "conv2", "conv3", "fc1", "fc2"}


def test_exported_onnx_reaches_the_simulated_accuracy(bench: wb.Bench, tmp_path: Path) -> None:
    path = bench.export(quantized(8), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    task = bench.task
    right = sum(
        int((torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0]).argmax(1) == y).sum())
        for x, y in zip(task.inputs.tensors[0].split(500), task.targets.split(500), strict=True)
    )
    *_, report = bench.stream(quantized(8))
    assert right / len(task) == pytest.approx(report.accuracy.value, abs=0.001)


def test_export_refuses_and_keeps_what_is_there(
    bench: wb.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("mine")
    with pytest.raises(WorkbenchError, match="exists"):
        bench.export(Recipe(), path)
    with pytest.raises(WorkbenchError, match=r"\.onnx, \.pt2, \.xml, \.safetensors are known"):
        bench.export(Recipe(), tmp_path / "model.pt")
    with pytest.raises(WorkbenchError, match="cannot be written"):
        bench.export(Recipe(), tmp_path / "no folder" / "model.safetensors")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WorkbenchError, match="No space left"):
        bench.export(Recipe(), path, overwrite=True)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(quantization=Quantization(layers={"fc3": {"weight_bits": 4}})), r"no layer 'fc3'.*'fc[12]'"),
        (Recipe(quantization=Quantization(layers={"lstm*": {"weight_bits": 4}})), r"no layer 'lstm\*'.*Known: conv1"),
        (Recipe(deployment=Deployment(runtime="onnxrumtime")), "no runtime 'onnxrumtime'.*'onnxruntime'"),
        (Recipe(deployment=Deployment(device="cuda:7")), "cuda:7"),
        (Recipe(deployment=Deployment(device="mps", runtime="eager")), "mps"),
        (Recipe(distillation=Distillation(teacher="teachercnn")), "no teacher 'teachercnn'.*'teacher-cnn'"),
        (Recipe(distillation=Distillation(loss="kdd")), "no loss 'kdd'.*'kd'"),
        (Recipe(distillation=Distillation(images=19_000)), "18,000"),
        (Recipe(distillation=Distillation(images=100, labels=500)), "500"),
        ({"weight_bits": 4}, "Recipe is needed; this is a dict"),
    ],
    ids=str,
)
def test_what_is_not_here_is_named_before_any_work(bench: wb.Bench, recipe: Recipe, words: str) -> None:
    for call in (bench.check, bench.measure, lambda r: next(bench.stream(r))):
        with pytest.raises(RecipeError, match=words):
            call(recipe)


def test_cancel_between_batches_keeps_nothing(bench: wb.Bench) -> None:
    cancel = threading.Event()
    stream = bench.stream(quantized(5, 7), cancel)
    assert next(stream).evaluated < 10_000
    cancel.set()
    with pytest.raises(Cancelled):
        list(stream)
    assert bench.known(quantized(5, 7)) is None
    *_, report = bench.stream(quantized(5, 7))
    assert report.complete


def test_the_given_model_is_left_as_it_was(store: Store) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(108, 3)).train()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    task = Task.classification(torch.rand(60, 1, 8, 8), torch.arange(60) % 3, calibration=torch.rand(9, 1, 8, 8))
    random_after_data = torch.get_rng_state()
    assert not torch.equal(random, random_after_data)
    wb.Bench(model, task, store=store).measure(quantized(4))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random_after_data)


def test_fidelity_measures_agreement_with_fp32(store: Store) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    bench = wb.Bench(model, Task.fidelity(torch.randn(800, 20)), store=store)
    assert bench.baseline.accuracy.value == 1
    high, low = (list(bench.stream(quantized(bits)))[-1] for bits in (8, 2))
    assert 1 >= high.accuracy.value > low.accuracy.value > 0.2
    assert high.flips.gained == 0


def test_outputs_that_cannot_be_scored_are_told(store: Store) -> None:
    task = Task.classification(torch.rand(30, 4), torch.arange(30) % 3, calibration=torch.rand(5, 4))
    with pytest.raises(TaskError, match="one entry per example"):
        _ = wb.Bench(nn.Flatten(0), task, store=store).baseline
    with pytest.raises(TaskError, match="one row of scores each"):
        _ = wb.Bench(nn.Unflatten(1, (2, 2)), task, store=store).baseline
    broken = nn.Linear(4, 3)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(TaskError, match="NaN"):
        _ = wb.Bench(broken, task, store=store).baseline
    with pytest.raises(WorkbenchError, match=r"torch\.nn\.Module"):
        wb.Bench("resnet18", task)


def test_a_small_model_answers_in_one_report(store: Store) -> None:
    bench = tiny(store)
    reports = list(bench.follow(quantized(4)))
    assert reports[-1].advice is not None
    assert bench.known(quantized(4)) == reports[-1]
    assert "tiny" in repr(bench)


def test_a_bench_without_training_data_says_that_no_student_can_be_made(store: Store) -> None:
    bench = tiny(store)
    assert bench.training_images == 0
    assert all(reason for _, reason in bench.teachers())
    with pytest.raises(RecipeError, match="no training examples"):
        bench.check(Recipe(distillation=Distillation()))


def test_a_store_that_cannot_be_written_does_not_stop_a_measurement(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bench = tiny(Store(tmp_path / "file" / "store"))
    report = bench.measure(quantized(4))
    assert "cannot be used" in bench.store.problem
    assert bench.known(quantized(4)) == report


def test_two_threads_measure_at_once(store: Store) -> None:
    bench = tiny(store)
    made: dict[int, wb.Report] = {}
    threads = [
        threading.Thread(target=lambda n=n: made.__setitem__(n, list(bench.stream(quantized(n)))[-1]))
        for n in range(2, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    alone = tiny(store)
    assert {n: list(alone.stream(quantized(n)))[-1] for n in range(2, 9)} == made


def test_what_runs_is_told_apart_from_what_is_said_of_task_and_model(tmp_path: Path) -> None:
    bench = tiny(Store(tmp_path))
    eager = quantized(4, sums="both").replace(deployment=Deployment(runtime="eager", threads=1))
    report = bench.measure(eager)
    assert len(report.notes) == 1  # the model adds nothing that could be rounded
    assert report.running == "eager has no integer kernels: the rounded weights run in fp32."
    assert report.remarks == (*report.notes, report.running, *report.disturbances)


def test_only_runtimes_with_integer_kernels_can_differ_from_what_is_simulated(tmp_path: Path) -> None:
    bench = tiny(Store(tmp_path))
    assert bench.runs_integers(quantized(8))
    assert bench.runs_integers(quantized(8).replace(deployment=Deployment(runtime="inductor")))
    assert not bench.runs_integers(Recipe())
    assert not bench.runs_integers(quantized(8).replace(deployment=Deployment(runtime="eager")))
    untrained = quantized(8).replace(finetuning=Finetuning())
    assert not bench.runs_integers(untrained)  # nothing is trained for it
