"""Plans on a small bench: proposed at once, edited, tried, improved by measuring."""

from __future__ import annotations

import pytest
import torch
from small_bench import LONG, until
from torch import nn

from widgets.planning import template_of
from widgets.session import Session
from workbench.bench import Bench
from workbench.errors import WorkbenchError
from workbench.recipe import Deployment, Distillation, Quantization, Recipe
from workbench.store import Store
from workbench.task import Task

EAGER = Deployment(runtime="eager")


def quantized(bits, **more):
    return Recipe(quantization=Quantization(weight_bits=bits, activation_bits=8, **more), deployment=EAGER)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    inputs = torch.randn(400, 12)
    with torch.no_grad():
        targets = model(inputs).argmax(1)
    task = Task.classification(inputs, targets, calibration=torch.randn(96, 12), classes=5)
    bench = Bench(model, task, name="small", store=Store(tmp_path_factory.mktemp("store")))
    bench.preflight_stream = lambda cancel=None: iter(())  # exports a graph, which is not what this is about
    yield bench
    torch.set_num_threads(threads)


@pytest.fixture
def session(bench):
    session = Session(bench, quantized(8))
    session.wait(LONG)
    until(lambda: session.outlook is not None and session._errand is None)
    yield session
    session.close()
    thread = session._foreseeing._thread
    assert thread is None or not thread.is_alive()


def sizes(session):
    return [report.size.value for report in session.outlook.frontier]


def answered(session):
    until(lambda: session.proposal.settled and session._errand is None)
    return session.proposal


def test_the_frontier_trades_size_for_loss(session):
    drops = [report.drop.value for report in session.outlook.frontier]
    assert len(drops) > 1
    assert sizes(session) == sorted(sizes(session)) and drops == sorted(drops, reverse=True)
    assert {report.drop.source for report in session.outlook.frontier} == {"predicted"}


def test_a_budget_is_answered_at_once_and_then_exactly(session, bench):
    before = session.recipe
    budget = (sizes(session)[0] + sizes(session)[-1]) / 2
    session.propose(max_bytes=budget)
    first = session.proposal
    assert first.report in session.outlook.frontier and first.report.size.value <= budget
    exact = answered(session)
    assert exact.recipe == bench.plan(max_bytes=budget, template=exact.template, evaluations=0).recipe
    assert exact.report.drop.value <= first.report.drop.value + 1e-9
    assert [reason.layer for reason in exact.plan.reasons] == [layer.name for layer in bench.layers]
    assert session.recipe == before and not session.busy


def test_a_loss_is_a_budget_too(session):
    drops = [report.drop.value for report in session.outlook.frontier]
    budget = sorted(drops)[len(drops) // 2]
    session.propose(max_drop=budget)
    assert answered(session).report.drop.value <= budget
    assert session.proposal.report.size.value <= max(sizes(session))


def test_a_budget_that_nothing_keeps_says_what_comes_nearest(session):
    session.propose(max_bytes=10)
    for proposal in (session.proposal, answered(session)):
        assert proposal.note.startswith("No mix is as small as 10.0")
        assert proposal.report.size.value == sizes(session)[0]
    session.propose(max_drop=-1)
    for proposal in (session.proposal, answered(session)):
        assert "No mix loses as little as −100.00 points" in proposal.note


@pytest.mark.parametrize(
    "budget",
    [{}, {"max_bytes": 1.0, "max_drop": 1.0}, {"max_bytes": "3"}, {"max_bytes": True}, {"max_drop": float("nan")},
     {"max_bytes": -5}],
)  # fmt: skip
def test_what_is_no_budget_is_refused_and_changes_nothing(session, budget):
    with pytest.raises(WorkbenchError):
        session.propose(**budget)
    assert session.proposal is None


def test_trying_it_is_one_step_that_is_measured_and_undone(session):
    before = session.recipe
    session.propose(max_bytes=sizes(session)[0])
    wanted = answered(session).recipe
    session.take_proposal()
    assert session.proposal is None and session.recipe == wanted and session.prediction.recipe == wanted
    report = session.wait(LONG)
    assert report.recipe == wanted and report.drop.source == "simulated"
    session.undo()
    assert session.recipe == before
    session.redo()
    assert session.recipe == wanted


def test_bits_of_a_proposal_can_be_edited_and_its_prediction_follows(session, bench):
    before = session.recipe
    session.propose(max_bytes=sizes(session)[0])
    plan = answered(session)
    name = max(bench.layers, key=lambda layer: layer.parameters).name
    session.edit_proposal([name], weight_bits=8)
    edited = session.proposal
    assert edited.edited and edited.recipe.quantization.bits_for(name) == (8, 8)
    assert edited.report.size.value > plan.report.size.value
    assert "Over the budget" in edited.note
    assert edited.report == bench.predict(edited.recipe)
    with pytest.raises(WorkbenchError):
        session.edit_proposal(["fc9"], weight_bits=4)
    with pytest.raises(WorkbenchError):
        session.edit_proposal([name], weight_bits=77)
    assert session.proposal == edited and session.recipe == before
    session.discard_proposal()
    assert session.proposal is None and session.recipe == before


def test_measuring_improves_it_and_can_be_stopped(session):
    session.propose(max_bytes=sizes(session)[len(sizes(session)) // 2])
    answered(session)
    session.improve_proposal()
    assert session.planning
    until(lambda: session.planning.startswith("2 of 20") or not session.planning)
    session.stop_improving()
    assert session.planning == ""
    until(lambda: session._errand is None)
    assert session.proposal.report.drop.source == "simulated"
    assert session.proposal.report.size.value <= session.proposal.budget
    assert session.problem == ""


def test_a_control_that_is_moved_ends_the_improving_with_the_best_so_far(session):
    session.propose(max_bytes=sizes(session)[-1])
    answered(session)
    session.improve_proposal()
    until(lambda: session.planning.startswith("1 of 20") or not session.planning)
    session.update(weight_bits=5, layers={"0": {"weight_bits": 7}})
    assert session.wait(LONG).recipe == session.recipe
    assert session.planning == "" and session.proposal is not None
    until(lambda: session._errand is None)
    assert session.problem == ""


def test_another_method_ends_a_proposal_and_bits_do_not(session):
    session.propose(max_bytes=sizes(session)[0])
    session.update(weight_bits=4)
    assert session.proposal is not None
    session.update(activation_bits=7)
    assert session.proposal is None and session.outlook is None
    session.wait(LONG)
    until(lambda: session.outlook is not None)
    assert session.outlook.template.quantization.activation_bits == 7


def test_what_there_is_not_is_refused_in_words(session):
    for attempt in (
        session.take_proposal,
        session.improve_proposal,
        lambda: session.edit_proposal(["0"], weight_bits=2),
    ):
        with pytest.raises(WorkbenchError, match="no proposal"):
            attempt()


def test_each_model_keeps_its_own_proposal(bench):
    session = Session({"small": bench, "b": bench}, quantized(8))
    session.wait(LONG)
    until(lambda: session.outlook is not None and session._errand is None)
    session.propose(max_bytes=sizes(session)[0])
    mine = answered(session)
    session.improve_proposal()
    session.choose_model("b")
    assert session.proposal is None and session.planning == ""
    session.choose_model("small")
    assert session.proposal is not None and session.proposal.budget == mine.budget
    session.close()


def test_a_plan_is_for_the_model_itself():
    assert template_of(Recipe(distillation=Distillation())) is None
    assert template_of(Recipe()).quantization.activation_bits == 8
    mixed = quantized(4, layers={"fc1": {"weight_bits": 2}})
    assert template_of(mixed) == template_of(quantized(8))


@pytest.mark.parametrize(
    ("changes", "instead"),
    [
        ({"method": "brecq"}, {"method": "quantease"}),
        ({"correction": "batchnorm"}, {"correction": "bias"}),
        ({"method": "brecq", "equalize": True}, {"method": "quantease", "equalize": False}),
    ],
)
def test_a_method_that_cannot_be_planned_with_says_why_and_what_comes_nearest(session, changes, instead):
    assert session.obstacle() is None
    session.update(**changes)
    session.wait(LONG)
    found = session.obstacle()
    assert "layers depend on each other" in found.reason
    assert found.instead == session.recipe.replace(quantization=session.recipe.quantization.replace(**instead))
    with pytest.raises(WorkbenchError, match="nothing to plan with"):
        session.propose(max_bytes=1e6)
    session.plan_otherwise()
    assert session.recipe == found.instead and session.obstacle() is None
    session.wait(LONG)
    until(lambda: session.outlook is not None and session.outlook.frontier)
    session.propose(max_bytes=sizes(session)[-1])
    session.undo()
    assert all(getattr(session.recipe.quantization, field) == value for field, value in changes.items())


def test_a_reason_that_the_engine_gives_is_kept(session):
    method = session._method()
    session._desk.hopeless[method] = "Layers are missing."
    assert session.obstacle() == ("Layers are missing.", None)
    session._desk.hopeless[method] = ""
    assert "cannot be predicted" in session.obstacle().reason
    with pytest.raises(WorkbenchError, match="no other method"):
        session.plan_otherwise()


def test_a_latency_is_kept_beside_the_size_or_said_to_be_out_of_reach(session):
    budget = sizes(session)[-1]
    session.propose(max_bytes=budget, max_latency=10.0)
    found = answered(session)
    assert found.note == "" and found.plan.budget.max_latency == 10.0
    assert found.report.latency.value < 10.0
    session.propose(max_bytes=budget, max_latency=1e-9)
    refused = answered(session)
    assert "eager takes" in refused.note and "bits do not change that" in refused.note
    assert refused.report.size.value <= budget
    for wrong in (0, -1.0, float("nan"), True, "1"):
        with pytest.raises(WorkbenchError, match="seconds above 0"):
            session.propose(max_bytes=budget, max_latency=wrong)
