"""A session on the model that comes along: the engine keeps what the session relies on."""

from __future__ import annotations

import pytest
import torch

from widgets.session import Session
from workbench import zoo
from workbench.bench import Bench
from workbench.errors import Cancelled, WorkbenchError
from workbench.recipe import Recipe
from workbench.store import Store
from workbench.task import Task

LONG = 120  # seconds: a guard against hanging
EXAMPLES = 2500


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = zoo.task()
    task = Task.classification(
        whole.inputs[:EXAMPLES],
        whole.targets[:EXAMPLES],
        calibration=whole.calibration,
        training=tuple(part[:3000] for part in whole.training.tensors),
        classes=whole.classes,
        noun="images",
    )
    yield Bench(zoo.model("seed-cnn"), task, name="seed-cnn", store=Store(tmp_path_factory.mktemp("store")))
    torch.set_num_threads(threads)


@pytest.fixture
def session(bench):
    session = Session(bench)
    yield session
    session.close()


def test_a_change_shows_growing_reports_and_ends_in_the_benchs_own(session, bench):
    fp32 = session.wait(LONG)
    assert fp32 == session.baseline == bench.known(Recipe())
    seen = []
    session.observe(lambda change: seen.append(change["new"]), names=["report"])
    session.update(weight_bits=3, activation_bits=8)
    report = session.wait(LONG)
    assert [r.evaluated for r in seen] == sorted(r.evaluated for r in seen)
    assert seen[0].evaluated < seen[-1].evaluated == EXAMPLES
    assert report == bench.known(session.recipe) == bench.measure(session.recipe)
    assert report.latency is not None
    assert all(row.cost is not None for row in report.layers)
    assert session.problem == ""
    session.undo()
    assert (session.report, session.busy) == (fp32, False)


def test_rapid_changes_and_a_cancel_leave_a_session_that_answers(session, bench):
    session.wait(LONG)
    for bits in (8, 7, 6, 5, 4, 2):
        session.update(weight_bits=bits)
    session.cancel()
    with pytest.raises(Cancelled):
        session.wait(LONG)
    session.update(weight_bits=2)
    assert session.wait(LONG) == bench.known(session.recipe)
    assert session.problem == ""


def test_what_the_bench_refuses_changes_nothing(session):
    session.wait(LONG)
    for changes in ({"runtime": "tensorrt"}, {"device": "cuda:7"}, {"layers": {"fc9": {"weight_bits": 4}}}):
        with pytest.raises(WorkbenchError):
            session.update(**changes)
    assert session.recipe == Recipe()


def test_a_short_training_ends_in_the_recipe(session):
    session.wait(LONG)
    assert session.distillation.images == 2700  # as many as there are beside those that are held out
    session.update_distillation(images=512, labels=256, epochs=1, width=0.25)
    session.distil()
    report = session.wait(LONG)
    assert session.curve[-1].done
    assert report.recipe.distillation == session.distillation
    assert report.distillation is not None
    assert report.size.value < session.baseline.size.value
