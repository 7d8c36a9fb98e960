"""Outcomes that grow batch by batch, and what is compared with them, against the metrics on all outputs at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor, nn

from workbench import Cancelled, Quantization, Task, TaskError
from workbench.comparisons import fp32
from workbench.evaluation import Evaluation, Outcomes
from workbench.network import Network
from workbench.outputs import selected
from workbench.quantization.quantizer import specs

N, BATCH = 130, 16
MODEL = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
with torch.random.fork_rng():
    torch.manual_seed(0)
    for parameter in MODEL.parameters():
        nn.init.normal_(parameter, std=0.5)
    X, CALIBRATION = torch.randn(N, 6), torch.randn(40, 6)
    with torch.no_grad():
        NOISY = MODEL(X) + 0.5 * torch.randn(N, 4)
LOW = Quantization(weight_bits=3, activation_bits=4)


def micro_f1(outputs: Tensor, targets: Tensor) -> float:
    return sk.f1_score(targets.numpy(), (outputs > 0).numpy(), average="micro")


TASKS: dict[str, tuple[Callable[[], Task], Callable[[Tensor, Tensor], float]]] = {
    "accuracy": (
        lambda: Task.classification(X, NOISY.argmax(1), calibration=CALIBRATION),
        lambda o, t: sk.accuracy_score(t, o.argmax(1)),
    ),
    "F1": (
        lambda: Task.multi_label(X, (NOISY > 0).long(), calibration=CALIBRATION),
        micro_f1,
    ),
    "MAE": (
        lambda: Task.regression(X, NOISY, calibration=CALIBRATION),
        lambda o, t: sk.mean_absolute_error(t, o),
    ),
    "own": (
        lambda: Task.scored(
            X, NOISY, score=lambda o, t: (o - t).abs().amax(1), higher_is_better=False, calibration=CALIBRATION
        ),
        lambda o, t: float((o - t).abs().amax(1).mean()),
    ),
    "cosine": (
        lambda: Task.embedding(X, reference=NOISY, calibration=CALIBRATION),
        lambda o, t: float(torch.nn.functional.cosine_similarity(o.double(), t.double()).mean()),
    ),
}
EVERY = pytest.mark.parametrize("name", TASKS)


def prepared(name: str, batch: int = BATCH) -> tuple[Task, Network, Evaluation]:
    task = TASKS[name][0]()
    return task, Network(MODEL, task.calibration, len(task), Path("nowhere")), Evaluation(task, batch)


def all_outputs(network: Network, task: Task, quantization: Quantization) -> Tensor:
    return selected(network.simulation.run(task.inputs, specs(quantization, network.layers)), None)


@EVERY
def test_the_last_of_a_stream_is_the_metric_on_all_outputs(name: str) -> None:
    task, network, evaluation = prepared(name)
    asked = specs(LOW, network.layers)
    stream = list(evaluation.stream(network, asked, network))
    assert [len(outcomes) for outcomes in stream] == [min(BATCH * (i + 1), N) for i in range(-(-N // BATCH))]
    reached = stream[-1].accuracy()
    outputs = all_outputs(network, task, LOW)
    assert reached.value == pytest.approx(TASKS[name][1](outputs, task.targets), rel=1e-4)
    assert reached.low < reached.value < reached.high
    first = stream[0].accuracy()
    assert first.high - first.low > reached.high - reached.low
    seen = evaluation.order[:BATCH]
    assert first.value == pytest.approx(TASKS[name][1](outputs[seen], task.targets[seen]), rel=1e-4)


def test_the_other_metrics_of_a_regression_are_those_of_scikit_learn() -> None:
    task, network, evaluation = prepared("MAE")
    outcomes = evaluation.all(network, specs(LOW, network.layers), network)
    outputs = all_outputs(network, task, LOW)
    found = {score.metric.name: score.value for score in outcomes.scores()}
    assert found["RMSE"].value == pytest.approx(sk.mean_squared_error(task.targets, outputs) ** 0.5, rel=1e-4)
    assert found["R²"].value == pytest.approx(sk.r2_score(task.targets, outputs), rel=1e-4)
    assert all(value.low < value.value < value.high for value in found.values())


@EVERY
def test_drop_and_flips_are_paired(name: str) -> None:
    _, network, evaluation = prepared(name)
    plain = evaluation.all(network, fp32(network), network)
    low = evaluation.all(network, specs(LOW, network.layers), network)
    metric = low.metrics[0]
    sign = 1 if metric.info.higher_is_better else -1
    drop = low.drop(plain)
    assert drop.value == pytest.approx(sign * (plain.accuracy().value - low.accuracy().value), abs=1e-9)
    assert drop.low <= drop.value <= drop.high
    if name != "F1":  # the same examples: far tighter than two that know nothing of each other
        apart = (plain.accuracy().high - plain.accuracy().low) + (low.accuracy().high - low.accuracy().low)
        assert drop.high - drop.low < apart
    again = plain.drop(plain)
    assert again.value == 0
    flips = low.flips(plain)
    ours, theirs = (metric.scores(o.statistics[0]) for o in (low, plain))
    assert (flips.lost, flips.gained, flips.n) == (int((ours < theirs).sum()), int((ours > theirs).sum()), N)
    assert 0 < flips.total <= N
    assert low.flips(low).total == 0
    if metric.info.counted:
        assert drop.value == pytest.approx((flips.lost - flips.gained) / N)


def test_a_part_is_compared_with_the_same_part_of_a_baseline_that_has_seen_more() -> None:
    _, network, evaluation = prepared("MAE")
    plain = evaluation.all(network, fp32(network), network)
    first = next(evaluation.stream(network, specs(LOW, network.layers), network))
    expected = first.drop(plain.first(len(first)))
    assert first.drop(plain) == expected
    assert first.flips(plain).n == BATCH


@EVERY
def test_the_size_of_batches_changes_nothing(name: str) -> None:
    reached = []
    for batch in (7, N):
        _, network, evaluation = prepared(name, batch)
        reached.append(evaluation.all(network, specs(LOW, network.layers), network).accuracy())
    assert reached[0].value == pytest.approx(reached[1].value, abs=1e-6)
    assert reached[0].low == pytest.approx(reached[1].low, abs=1e-5)


def test_recall_is_known_when_all_were_seen_and_follows_the_tasks_own_order() -> None:
    queries, documents = list(range(20)), list(range(20, 130))
    relevant = [20 + 5 * index for index in range(20)]
    vectors = X.clone()
    vectors[queries] = vectors[relevant] + 0.3 * vectors[queries]
    task = Task.embedding(
        vectors, queries=queries, documents=documents, relevant=relevant, recall_at=(1, 5), calibration=CALIBRATION
    )
    network = Network(MODEL, task.calibration, N, Path("nowhere"))
    stream = list(Evaluation(task, BATCH).stream(network, specs(LOW, network.layers), network))
    assert all(not outcomes.scores() for outcomes in stream[:-1])
    found = {score.metric.name: score.value.value for score in stream[-1].scores()}
    unit = torch.nn.functional.normalize(all_outputs(network, task, LOW), dim=1)
    scores = unit[queries] @ unit[documents].T
    ranks = [int((row > row[documents.index(d)]).sum()) for row, d in zip(scores, relevant, strict=True)]
    assert found == {f"recall@{k}": pytest.approx(sum(rank < k for rank in ranks) / 20) for k in (1, 5)}
    assert 0 < found["recall@1"] < found["recall@5"]


def test_fidelity_is_measured_against_the_reference_and_not_the_network_itself() -> None:
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    task = Task.fidelity(X, calibration=CALIBRATION)
    reference, network = (Network(m, task.calibration, len(task), Path("nowhere")) for m in (MODEL, other))
    reached = Evaluation(task, BATCH).all(network, fp32(network), reference)
    same = (reference.call(task.inputs).argmax(1) == network.call(task.inputs).argmax(1)).float().mean()
    assert reached.accuracy().value == pytest.approx(float(same))
    assert reached.accuracy().value < 0.9


def test_what_was_seen_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network, evaluation = prepared("accuracy")
    asked = specs(LOW, network.layers)
    before = evaluation.all(network, asked, network)
    monkeypatch.setattr(type(network.simulation), "run", lambda *_, **__: pytest.fail("run again"))
    assert list(evaluation.stream(network, asked, network)) == [before]


def test_cancelled_between_batches_nothing_is_kept() -> None:
    _, network, evaluation = prepared("accuracy")
    cancel, asked = threading.Event(), specs(LOW, network.layers)
    stream = evaluation.stream(network, asked, network, cancel)
    next(stream)
    cancel.set()
    with pytest.raises(Cancelled):
        next(stream)
    assert len(next(evaluation.stream(network, asked, network))) == BATCH


def test_an_order_that_is_fixed_and_random() -> None:
    task = TASKS["accuracy"][0]()
    one, two = Evaluation(task, 10), Evaluation(task, 33)
    assert torch.equal(one.order, two.order)
    assert sorted(one.order.tolist()) == list(range(N))
    assert one.order.tolist() != list(range(N))
    assert not torch.equal(one.order, Evaluation(task, 10, seed=1).order)


class Changes(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(6, 4), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.layer(x))


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (lambda y: y.sum(), "one entry per example"),
        (lambda y: y[:1], "one entry per example"),
        (lambda y: y * float("nan"), "NaN in fp32"),
        (lambda y: y[:, :, None], "one row of scores each"),
    ],
)
def test_outputs_that_cannot_be_measured_are_told(to: Callable[[Tensor], Tensor], words: str) -> None:
    task = TASKS["accuracy"][0]()
    network = Network(Changes(to), task.calibration, len(task), Path("nowhere"))
    with pytest.raises(TaskError, match=words):
        Evaluation(task, BATCH).all(network, fp32(network), network)


def test_outcomes_hold_one_row_per_example() -> None:
    _, network, evaluation = prepared("MAE")
    outcomes: Outcomes = evaluation.all(network, fp32(network), network)
    assert [len(statistics) for statistics in outcomes.statistics] == [N] * 3
    assert len(outcomes.first(5)) == 5
