from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench import TaskError
from workbench.metrics import (
    Cosine,
    ExactMatch,
    MeanAbsoluteError,
    MeanIoU,
    Metric,
    MultiLabelF1,
    OwnScore,
    Recall,
    RootMeanSquaredError,
    RSquared,
    Sqnr,
    TokenAccuracy,
    TopK,
)
from workbench.report import MetricInfo
from workbench.statistics import Resampling, resampled

seeds = st.integers(0, 10_000)
Pair = tuple[Tensor, Tensor]


def of(metric: Metric, outputs: Tensor, targets: Tensor) -> float:
    """The metric of all examples, from statistics of batches of three."""
    parts = zip(outputs.split(3), targets.split(3), strict=True)
    statistics = metric.resolved(torch.cat([metric.statistics(*part) for part in parts]))
    return float(metric.value(statistics.double().mean(0)))


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random(seed))


def classes(seed: int, high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=random(seed + 1))


def pairs(metric: Metric, seed: int, n: int) -> Pair:
    """Outputs and targets as the metric takes them."""
    match metric:
        case TopK():
            return scores(seed, n, 6), classes(seed, 6, n)
        case MultiLabelF1() | ExactMatch():
            return scores(seed, n, 4), classes(seed, 2, n, 4)
        case TokenAccuracy():
            return scores(seed, n, 5, 3), classes(seed, 3, n, 5)
        case MeanIoU():
            return scores(seed, n, 3, 4, 4), classes(seed, 3, n, 4, 4)
        case _:
            return scores(seed, n, 3), scores(seed, n, 3) + scores(seed + 7, n, 3) / 2


ALL: list[Metric] = [
    TopK(),
    TopK(3),
    MultiLabelF1(),
    ExactMatch(),
    MeanAbsoluteError("mm"),
    RootMeanSquaredError(),
    RSquared(),
    TokenAccuracy(),
    MeanIoU(3),
    Cosine(),
    Sqnr(),
]


@settings(max_examples=20)
@given(seeds, st.integers(2, 9), st.integers(1, 8))
def test_top_k_is_the_share_within_the_sorted_scores(seed: int, n_classes: int, k: int) -> None:
    outputs, targets = scores(seed, 13, n_classes), classes(seed, n_classes, 13)
    best = np.argsort(-outputs.numpy(), 1)[:, :k]
    expected = np.mean([t in row for t, row in zip(targets.tolist(), best, strict=True)])
    assert of(TopK(k), outputs, targets) == pytest.approx(expected)


@settings(max_examples=20)
@given(seeds)
def test_multi_label_is_counted_by_hand(seed: int) -> None:
    outputs, targets = scores(seed, 11, 4), classes(seed, 2, 11, 4)
    guess, truth = outputs.numpy() > 0, targets.numpy() == 1
    hit, wrong = (guess & truth).sum(), (guess != truth).sum()
    for form in (targets, targets.float(), targets.bool()):
        assert of(MultiLabelF1(), outputs, form) == pytest.approx(2 * hit / (2 * hit + wrong) if hit + wrong else 1)
        assert of(ExactMatch(), outputs, form) == pytest.approx((guess == truth).all(1).mean())


def test_nothing_to_find_and_nothing_found_is_perfect() -> None:
    assert of(MultiLabelF1(), -torch.ones(4, 3), torch.zeros(4, 3)) == 1
    assert of(MultiLabelF1(), torch.ones(4, 3), torch.zeros(4, 3)) == 0


@settings(max_examples=20)
@given(seeds, st.floats(-1e4, 1e4))
def test_errors_are_those_of_numpy(seed: int, offset: float) -> None:
    outputs, targets = scores(seed, 12, 2) + offset, scores(seed + 5, 12, 2) + offset
    error = (outputs - targets).numpy().astype(np.float64)
    around = targets.numpy().astype(np.float64)
    explained = 1 - (error**2).sum(0) / ((around - around.mean(0)) ** 2).sum(0)
    assert of(MeanAbsoluteError(), outputs, targets) == pytest.approx(abs(error).mean(), rel=1e-5)
    assert of(RootMeanSquaredError(), outputs, targets) == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    assert of(RSquared(), outputs, targets) == pytest.approx(explained.mean(), rel=1e-4)


def test_targets_without_variance_explain_all_or_nothing() -> None:
    same = torch.full((6, 1), 3.7)
    assert of(RSquared(), same, same) == 1
    assert of(RSquared(), same + 1, same) == 0
    half = torch.cat([same, torch.arange(6.0)[:, None]], 1)
    assert of(RSquared(), half + torch.tensor([1.0, 0.0]), half) == pytest.approx(0.5)


def test_a_column_of_outputs_and_a_vector_of_targets_mean_the_same() -> None:
    outputs, targets = scores(0, 8, 1), scores(1, 8)
    for metric in (MeanAbsoluteError(), RootMeanSquaredError(), RSquared(), Cosine(), Sqnr()):
        assert of(metric, outputs, targets) == of(metric, outputs[:, 0], targets[:, None])
        assert of(metric, outputs[:, 0], targets) == of(metric, outputs, targets[:, None])


@settings(max_examples=20)
@given(seeds, st.sampled_from([-100, 1]))
def test_token_accuracy_leaves_out_what_does_not_count(seed: int, ignored: int) -> None:
    outputs, targets = scores(seed, 7, 5, 3), classes(seed, 3, 7, 5)
    targets[classes(seed + 3, 2, 7, 5) == 1] = ignored
    counted = targets.numpy() != ignored
    expected = (outputs.argmax(-1).numpy() == targets.numpy())[counted].mean() if counted.any() else 0
    assert of(TokenAccuracy(ignored), outputs, targets) == pytest.approx(expected)
    longer = torch.nn.functional.pad(targets, (0, 4), value=-100)
    assert of(TokenAccuracy(ignored), outputs, longer) == pytest.approx(expected)


@settings(max_examples=20)
@given(seeds)
def test_mean_iou_counts_pixels_of_classes_that_occur(seed: int) -> None:
    outputs, targets = scores(seed, 4, 5, 3, 3), classes(seed, 3, 4, 3, 3)
    outputs[:, 4] = -100  # this class is neither guessed nor true
    targets[0, 0] = 255
    guess, truth, counted = outputs.argmax(1).numpy(), targets.numpy(), targets.numpy() != 255
    shares = []
    for each in range(5):
        both = ((guess == each) & (truth == each) & counted).sum()
        either = (((guess == each) | (truth == each)) & counted).sum()
        shares += [both / either] if either else []
    assert len(shares) == 4 or 3 not in guess
    assert of(MeanIoU(5), outputs, targets) == pytest.approx(np.mean(shares))


def test_mean_iou_enlarges_smaller_maps() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.int64)
    truth[:, :, 4:] = 1
    small = torch.nn.functional.one_hot(truth[:, ::4, ::4], 2).permute(0, 3, 1, 2).float()
    assert of(MeanIoU(2), small, truth) == 1


@settings(max_examples=20)
@given(seeds)
def test_cosine_and_noise_are_those_of_numpy(seed: int) -> None:
    outputs, targets = pairs(Cosine(), seed, 9)
    a, b = outputs.numpy().astype(np.float64), targets.numpy().astype(np.float64)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert of(Cosine(), outputs, targets) == pytest.approx(cosines.mean(), abs=1e-6)
    assert of(Sqnr(), outputs, targets) == pytest.approx(10 * np.log10((b**2).sum() / ((a - b) ** 2).sum()), abs=1e-4)
    assert of(Sqnr(), targets, targets) == pytest.approx(200)


@settings(max_examples=20)
@given(seeds, st.integers(1, 6))
def test_recall_ranks_by_cosine(seed: int, k: int) -> None:
    vectors = scores(seed, 12, 4)
    queries, documents = torch.tensor([3, 7, 11]), torch.tensor([0, 1, 2, 4, 5])
    relevant = torch.tensor([4, 0, 2])
    near = vectors.numpy() / np.linalg.norm(vectors.numpy(), axis=1, keepdims=True)
    found = [
        r in np.argsort(-(near[documents.numpy()] @ near[q]))[:k]
        for q, r in zip(queries.tolist(), relevant.tolist(), strict=True)
    ]
    metric = Recall(queries, documents, relevant, k)
    assert of(metric, vectors, vectors) == pytest.approx(np.mean(found))
    assert metric.info.name == f"recall@{k}"


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_scikit_learn_agrees(seed: int) -> None:
    learn = pytest.importorskip("sklearn.metrics")
    outputs, targets = pairs(TopK(3), seed, 40)
    numbers = [range(6)]
    theirs = learn.top_k_accuracy_score(targets, outputs, k=3, labels=list(*numbers))
    assert of(TopK(3), outputs, targets) == pytest.approx(theirs)
    outputs, targets = pairs(MultiLabelF1(), seed, 40)
    assert of(MultiLabelF1(), outputs, targets) == pytest.approx(learn.f1_score(targets, outputs > 0, average="micro"))
    outputs, targets = pairs(RSquared(), seed, 40)
    assert of(RSquared(), outputs, targets) == pytest.approx(learn.r2_score(targets, outputs), rel=1e-5)
    assert of(MeanAbsoluteError(), outputs, targets) == pytest.approx(learn.mean_absolute_error(targets, outputs))
    outputs, targets = pairs(MeanIoU(3), seed, 10)
    flat = targets.flatten(), outputs.argmax(1).flatten()
    assert of(MeanIoU(3), outputs, targets) == pytest.approx(learn.jaccard_score(*flat, average="macro"))


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.info.name)
def test_batches_add_up_to_the_whole(metric: Metric) -> None:
    outputs, targets = pairs(metric, 3, 14)
    whole = metric.statistics(outputs, targets)
    parts = [metric.statistics(*part) for part in zip(outputs.split(4), targets.split(4), strict=True)]
    torch.testing.assert_close(torch.cat(parts), whole)
    resampling = Resampling(14)
    torch.testing.assert_close(resampling.means(torch.cat(parts)[:9]), resampling.means(whole[:9]))
    values = metric.value(resampling.means(whole))
    assert values.shape == (400,)
    assert torch.isfinite(values).all()
    assert float(metric.value(whole.double().mean(0))) == pytest.approx(of(metric, outputs, targets))


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.info.name)
def test_the_right_answer_scores_best(metric: Metric) -> None:
    outputs, targets = pairs(metric, 5, 10)
    match metric:
        case TopK() | TokenAccuracy():
            best = torch.nn.functional.one_hot(targets, outputs.shape[-1]).float()
        case MeanIoU():
            best = torch.nn.functional.one_hot(targets, 3).permute(0, 3, 1, 2).float()
        case MultiLabelF1() | ExactMatch():
            best = targets * 2.0 - 1
        case _:
            best = targets
    ours, perfect = (metric.scores(metric.statistics(made, targets)) for made in (outputs, best))
    assert ours.shape == perfect.shape == (10,)
    assert (perfect >= ours).all()
    assert (perfect > ours).any()
    better = of(metric, best, targets) > of(metric, outputs, targets)
    assert better == metric.info.higher_is_better


def difference(metric: Metric, a: Tensor, b: Tensor, targets: Tensor) -> tuple[float, float]:
    """The interval of the paired difference between two models' outputs."""
    resampling = Resampling(len(targets), seed=int(targets.sum() * 1000) % 10_000)
    first, second = (metric.statistics(outputs, targets) for outputs in (a, b))
    at = metric.value(first.double().mean(0)) - metric.value(second.double().mean(0))
    spread = metric.value(resampling.means(first)) - metric.value(resampling.means(second))
    estimate = resampled(at, spread, "", "simulated")
    return estimate.low, estimate.high


@pytest.mark.parametrize("metric", [RootMeanSquaredError(), MeanAbsoluteError(), RSquared()], ids=lambda m: m.info.name)
def test_paired_intervals_cover_the_truth_about_95_times_in_100(metric: Metric) -> None:
    generator = random(0)

    def drawn(n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Two models whose errors have a part in common."""
        targets, shared, own, other = torch.randn(4, n, 1, generator=generator)
        return targets + 0.5 * shared + 0.2 * own, targets + 0.5 * shared + 0.3 * other, targets

    a, b, targets = drawn(200_000)
    truth = of_all(metric, a, targets) - of_all(metric, b, targets)
    covered = 0
    for _ in range(200):
        low, high = difference(metric, *drawn(150))
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


def of_all(metric: Metric, outputs: Tensor, targets: Tensor) -> float:
    return float(metric.value(metric.statistics(outputs, targets).double().mean(0)))


def test_pairing_makes_the_interval_narrower() -> None:
    targets, shared, own = torch.randn(3, 500, 1, generator=random(1))
    a, b = targets + shared, targets + shared + 0.1 * own
    metric = RootMeanSquaredError()
    low, high = difference(metric, a, b, targets)
    one = metric.value(Resampling(500).means(metric.statistics(a, targets)))
    assert high - low < (one.quantile(0.975) - one.quantile(0.025)) / 2


def test_an_own_score_is_checked() -> None:
    def score(outputs: Tensor, targets: Tensor) -> Tensor:
        return -(outputs - targets).abs().amax(1)

    outputs, targets = pairs(Cosine(), 0, 8)
    metric = OwnScore(score, MetricInfo(name="worst", share=False))
    assert of(metric, outputs, targets) == pytest.approx(float(score(outputs, targets).mean()))
    for wrong, shape in ((lambda o, t: o, r"\(8, 3\)"), (lambda o, t: 0.5, "float"), (lambda o, t: o.mean(), r"\(\)")):
        with pytest.raises(TaskError, match=rf"one number per example is needed, shape \(8,\); it returned {shape}"):
            OwnScore(wrong, metric.info).statistics(outputs, targets)


@pytest.mark.parametrize(
    ("metric", "outputs", "targets", "words"),
    [
        (TopK(), (5, 3, 2), (5,), r"one row of scores each, shape \(k, classes\)"),
        (TopK(), (4, 3), (5,), "one row of scores"),
        (MultiLabelF1(), (5, 3), (5, 4), r"one logit per label, shape \(5, 4\)"),
        (ExactMatch(), (5, 3), (5, 4), "one logit per label"),
        (MeanAbsoluteError(), (5, 2), (5,), r"the targets' shape \(5,\)"),
        (RSquared(), (5, 2), (4, 2), "the targets' shape"),
        (Cosine(), (5, 2), (5, 3), "the targets' shape"),
        (TokenAccuracy(), (5, 4), (5, 4), r"shape \(k, tokens, classes\)"),
        (TokenAccuracy(), (5, 3, 2), (5, 4), r"shape \(k, tokens, classes\)"),
        (MeanIoU(3), (5, 2, 4, 4), (5, 4, 4), r"scores of shape \(k, 3, H, W\)"),
    ],
)
def test_outputs_of_another_shape_are_named(metric: Metric, outputs: Any, targets: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words) as caught:
        metric.statistics(torch.rand(outputs), torch.ones(targets))
    assert str(caught.value).startswith(f"The model returned shape {outputs} for {targets[0]} examples")


def key(metric: Metric) -> str:
    digest = hashlib.sha256()
    metric.update(digest)
    return digest.hexdigest()


def test_the_digest_follows_all_that_is_set() -> None:
    places = torch.tensor([0, 1])
    info = MetricInfo(name="own")
    make: list[Callable[[], Metric]] = [
        lambda: TopK(2),
        lambda: TopK(3),
        lambda: TokenAccuracy(-100),
        lambda: TokenAccuracy(0),
        lambda: MeanIoU(3, 255),
        lambda: MeanIoU(3, 0),
        lambda: Recall(places, places, places),
        lambda: Recall(places, places, places.flip(0)),
        lambda: OwnScore(lambda o, t: o[:, 0], info),
    ]
    assert len({key(each()) for each in make}) == len(make)
    assert [key(each()) for each in make] == [key(each()) for each in make]
