"""Flips are those that the reports count, and what undoes one is verified by measuring."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.errors import Cancelled, RecipeError
from workbench.inputs import Inputs
from workbench.outputs import selected
from workbench.quantization.quantizer import specs

sys.path.insert(0, str(Path(__file__).parent.parent))  # what several tests share
from any_models import made as any_model

CLASSES = ("red", "green", "blue", "grey")


def recipe(**quantization) -> wb.Recipe:
    return wb.Recipe(quantization=wb.Quantization(**quantization))


LOW = recipe(weight_bits=2, activation_bits=3)


def wide() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)).eval()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    model, inputs = wide(), torch.randn(500, 8)
    with torch.inference_mode():
        outputs = model(inputs)
        right = (outputs + 0.2 * outputs.std() * torch.randn(500, 4)).argmax(1)
    task = wb.Task.classification(inputs, right, calibration=torch.randn(60, 8), classes=CLASSES)
    return wb.Bench(model, task, store=wb.Store(tmp_path_factory.mktemp("store")))


def answered(bench, made: wb.Recipe) -> torch.Tensor:
    """Logits of all examples, in the task's order."""
    network = bench._network_for(made)
    inputs = bench.task.inputs
    with torch.inference_mode():
        return selected(network.simulation.run(inputs, specs(made.quantization, network.layers)), bench.task.output)


def test_they_are_the_flips_of_the_report(bench):
    found, report = bench.flips(LOW), bench.measure(LOW)
    assert (found.lost_total, found.gained_total) == (report.flips.lost, report.flips.gained)
    assert (len(found.lost), len(found.gained)) == (found.lost_total, found.gained_total) and found.lost
    plain, now, right = answered(bench, wb.Recipe()), answered(bench, LOW), bench.task.targets
    for flip in (*found.lost, *found.gained):
        was, then = plain[flip.index], now[flip.index]
        assert flip.target == CLASSES[right[flip.index]]
        assert (flip.fp32.text, flip.now.text) == (CLASSES[was.argmax()], CLASSES[then.argmax()])
        assert (flip.fp32.text == flip.target) is (flip.kind == "lost")
        assert (flip.now.text == flip.target) is (flip.kind == "gained")
        best = was.softmax(0).topk(2).values
        assert flip.fp32.probability == pytest.approx(float(best[0]), abs=1e-4)
        assert flip.fp32.margin == pytest.approx(float(best[0] - best[1]), abs=1e-4)


def test_what_undoes_a_flip_does_so_when_it_is_measured(bench):
    found, right = bench.flips(LOW), bench.task.targets
    q = LOW.quantization
    restored = {
        name: answered(bench, wb.Recipe(quantization=q.replace(layers={name: dict.fromkeys(BITS)})))
        for name in found.layers
    }
    assert any(flip.undone_by for flip in found.lost) and len(restored) == 3

    def strength(name: str, index: int) -> float:
        shares = restored[name][index].softmax(0)
        own = float(shares[right[index]])
        shares[right[index]] = -1
        return own - float(shares.max())

    for flip in (*found.lost, *found.gained):
        undoing = {
            name
            for name, outputs in restored.items()
            if bool(outputs[flip.index].argmax() == right[flip.index]) is (flip.kind == "lost")
        }
        assert set(flip.undone_by) == undoing
        strong = [strength(name, flip.index) for name in flip.undone_by]
        assert strong == sorted(strong, reverse=flip.kind == "lost")


BITS = ("weight_bits", "activation_bits")


def test_the_surest_come_first_and_a_limit_holds(bench):
    found = bench.flips(LOW)
    margins = [flip.fp32.margin for flip in found.lost]
    assert margins == sorted(margins, reverse=True)
    few = bench.flips(LOW, limit=3)
    assert (len(few.lost), len(few.gained)) == (3, min(3, few.gained_total)) and few.lost_total == found.lost_total
    assert {flip.index for flip in few.lost} <= {flip.index for flip in found.lost}


def test_it_grows_and_says_what_is_behind(bench):
    stages = list(bench.flips_stream(LOW))
    assert [stage.done for stage in stages] == [1, 2, 3, 4] and stages[-1].complete
    assert all(flip.undone_by == () for flip in stages[0].lost)
    last = stages[-1]
    worst = max(last.behind, key=last.behind.get)
    assert f"{worst}, restored alone, undoes {last.behind[worst]}" in last.sentence
    assert f"{last.lost_total} lost" in str(last) and "<table>" in last._repr_html_()
    alone = next((flip for flip in last.lost if not flip.undone_by), None)
    assert alone is None or last.undone(alone) == "none alone"
    assert stages[0].undone(stages[0].lost[0]) == "…"


def test_nothing_flips_where_nothing_changed(bench):
    found = bench.flips(wb.Recipe())
    assert found.lost == found.gained == () and found.complete and found.examples == 500


def test_a_cancel_ends_it(bench):
    cancel = threading.Event()
    stream = bench.flips_stream(LOW, cancel=cancel)
    next(stream)
    cancel.set()
    with pytest.raises(Cancelled):
        list(stream)


def test_agreement_has_flips_without_a_target(tmp_path):
    task = wb.Task.fidelity(torch.randn(200, 8), calibration=torch.randn(40, 8))
    bench = wb.Bench(wide(), task, store=wb.Store(tmp_path))
    found = bench.flips(LOW)
    assert found.lost and not found.gained and found.lost[0].target == ""
    assert found.lost[0].fp32.text.startswith("class ") and found.lost[0].fp32.text != found.lost[0].now.text


def test_numbers_fall_most_first_with_what_takes_half_of_it_back(tmp_path):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    inputs = torch.randn(120, 6)
    with torch.inference_mode():
        targets = model(inputs)[:, 0] + 0.05 * torch.randn(120)
    task = wb.Task.regression(inputs, targets, calibration=torch.randn(40, 6), unit="m")
    bench = wb.Bench(model, task, store=wb.Store(tmp_path))
    made = recipe(weight_bits=2)
    found = bench.flips(made, limit=20)
    plain, now = answered(bench, wb.Recipe())[:, 0], answered(bench, made)[:, 0]
    worse = (now - targets).abs() - (plain - targets).abs()
    assert [flip.index for flip in found.lost] == worse.argsort(descending=True)[:20].tolist()
    assert found.lost[0].now.text.endswith(" m") and found.lost[0].target.endswith(" m")
    for name in found.layers:
        q = made.quantization
        then = answered(bench, wb.Recipe(quantization=q.replace(layers={name: dict.fromkeys(BITS)})))[:, 0]
        back = 1 - ((then - targets).abs() - (plain - targets).abs()) / worse
        for flip in found.lost:
            if abs(float(back[flip.index]) - 0.5) > 1e-3:
                assert (name in flip.undone_by) is bool(back[flip.index] > 0.5)


@pytest.mark.parametrize("name", ["conv1d", "lstm", "tied embedding", "ragged tokens", "two inputs", "data-dependent"])
def test_any_model_is_explained(tmp_path, name):
    model, inputs = any_model(name)
    bench = wb.Bench(model, wb.Task.fidelity(inputs), store=wb.Store(tmp_path))
    made = recipe(weight_bits=3, activation_bits=4)
    explained, flips = bench.explain(made), bench.flips(made)
    assert explained.complete and explained.scanned and flips.complete
    assert isinstance(bench.task.inputs, Inputs)
    for row in explained.layers:
        histogram = bench.histogram(made, row.name)
        assert histogram.weights is not None or histogram.inputs is not None or histogram.notes


def test_a_student_is_explained_against_its_model(bench):
    with pytest.raises(RecipeError):
        bench.flips(LOW.replace(distillation=wb.Distillation()))  # no training data here
