"""Predicted reports: exact size, honest intervals, and learning from what is measured."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench import Distillation, Quantization, Recipe, RecipeError
from workbench.planning import prediction
from workbench.quantization.quantizer import specs
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parent))
from small import KINDS, classification

bits = st.none() | st.integers(2, 8)


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, wb.Bench]:
    return {kind: make(Store(tmp_path_factory.mktemp(kind))) for kind, make in KINDS.items()}


def random_recipe(bench: wb.Bench, seed: int, low: int = 2) -> Recipe:
    drawn = np.random.default_rng(seed).integers(low, 9, (len(bench.layers), 2)).tolist()
    layers = {
        layer.name: {"weight_bits": w, "activation_bits": a} for layer, (w, a) in zip(bench.layers, drawn, strict=True)
    }
    return Recipe(quantization=Quantization(layers=layers))


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), weight=bits, activation=bits, seed=st.integers(0, 1000))
def test_a_prediction_is_sound(
    benches: dict[str, wb.Bench], kind: str, weight: int | None, activation: int | None, seed: int
) -> None:
    bench = benches[kind]
    layers = dict(list(random_recipe(bench, seed).quantization.layers.items())[: seed % 3])
    recipe = Recipe(quantization=Quantization(weight_bits=weight, activation_bits=activation, layers=layers))
    report = bench.predict(recipe)
    assert report == bench.predict(recipe)
    assert report.recipe == recipe
    for estimate in (report.accuracy, report.drop):
        assert estimate.low <= estimate.value <= estimate.high
    if any(row.weight_bits or row.activation_bits for row in report.layers):
        assert report.accuracy.source == report.drop.source == "predicted"
        assert report.drop.low < report.drop.high
    sign = 1 if report.metric.higher_is_better else -1
    assert report.drop.value == pytest.approx(sign * (bench.baseline.accuracy.value - report.accuracy.value))
    assert report.size.value == len(bench._network.artifact(recipe.quantization, recipe.to_json()))
    assert report.layers == bench._network.rows(recipe.quantization)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_order_mixes_as_measurements_do(kind: str, benches: dict[str, wb.Bench]) -> None:
    from scipy.stats import spearmanr

    bench = benches[kind]
    recipes = [random_recipe(bench, seed, low=2 + seed % 4) for seed in range(24)]
    predicted = [bench.predict(recipe) for recipe in recipes]
    measured = [list(bench.stream(recipe))[-1] for recipe in recipes]
    guess, drop = ([report.drop.value for report in reports] for reports in (predicted, measured))
    assert spearmanr(guess, drop)[0] > 0.5  # a few hundred examples measure roughly
    inside = [p.drop.includes(m.drop.value) for p, m in zip(predicted, measured, strict=True)]
    assert np.mean(inside) > 0.7


def test_what_is_measured_is_learned(store: Store) -> None:
    bench = classification(store)
    recipe, near = (
        random_recipe(bench, 3).replace(quantization=Quantization(weight_bits=2, activation_bits=a)) for a in (8, 7)
    )
    before = bench.predict(near)
    measured = list(bench.stream(recipe))[-1]
    far = measured.model_copy(update={"drop": measured.drop.model_copy(update={"value": before.drop.value + 0.2})})
    bench.forecast.observe(far)
    after = bench.predict(near)
    assert after.drop.value > before.drop.value
    assert bench.predict(recipe).drop.value == pytest.approx(far.drop.value, abs=0.12)


class Slow:
    """What makes a fit, in the place of the real one: it says that it began, and waits until it may go on."""

    def __init__(self) -> None:
        self.began, self.go_on, self._real = threading.Event(), threading.Event(), prediction._conditioned

    def __call__(self, *args: object) -> object:
        self.began.set()
        assert self.go_on.wait(60)
        return self._real(*args)


def test_who_predicts_does_not_wait_for_who_learns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = classification(store)
    seen, near = (Recipe(quantization=Quantization(weight_bits=2, activation_bits=a)) for a in (8, 7))
    other = Recipe(quantization=Quantization(method="naive", weight_bits=3))  # no part of it was measured yet
    before = bench.predict(near)
    measured = list(bench.stream(seen))[-1]
    far = measured.model_copy(update={"drop": measured.drop.model_copy(update={"value": before.drop.value + 0.2})})
    slow = Slow()
    monkeypatch.setattr(prediction, "_conditioned", slow)
    with ThreadPoolExecutor(2) as threads:
        try:
            learning = threads.submit(bench.forecast.observe, far)
            assert slow.began.wait(60)
            foreseen = threads.submit(lambda: [bench.forecast.predict(recipe) for recipe in (near, other, near)])
            while_learning = foreseen.result(timeout=10)
            assert not learning.done()
        finally:
            slow.go_on.set()
        learning.result(timeout=60)
    assert while_learning[0] == while_learning[2] == before
    assert bench.forecast.predict(near).drop.value > before.drop.value
    assert while_learning[1].drop.value > 0


def test_parts_that_are_asked_for_late_are_predicted_as_if_they_had_been_known(store: Store) -> None:
    bench = classification(store)
    first, second = (Recipe(quantization=Quantization(method="naive", weight_bits=b)) for b in (3, 5))
    bench.predict(Recipe(quantization=Quantization(weight_bits=4)))
    predictor, layers = bench.forecast.predictor, bench._network.layers
    mixes = [specs(recipe.quantization, layers) for recipe in (first, second)]
    late = [predictor.predict([mix]) for mix in mixes]
    at_once = prediction.Predictor(bench.forecast.sensitivity, bench.baseline.accuracy.value, len(bench.task))
    together = at_once.predict(mixes)
    assert np.allclose([float(each.drop[0]) for each in late], together.drop, rtol=1e-9)
    assert np.allclose([float(each.error[0]) for each in late], together.error, rtol=1e-9)


def test_latency_is_there_where_the_same_kernels_were_timed(store: Store) -> None:
    bench = classification(store)
    eight, three = (Recipe(quantization=Quantization(weight_bits=b, activation_bits=8)) for b in (8, 3))
    measured = bench.measure(eight)
    assert list(bench.forecast.predictor.seen.values()) == [measured.drop.value]
    found = bench.predict(three)
    assert measured.latency is not None
    assert found.latency is not None
    assert (found.latency.value, found.latency.source) == (measured.latency.value, "predicted")
    assert bench.predict(Recipe(quantization=Quantization(weight_bits=3))).latency is None
    larger = three.replace(deployment=three.deployment.replace(batch=4))
    assert bench.predict(larger).latency is None


def test_fp32_needs_no_prediction(benches: dict[str, wb.Bench]) -> None:
    bench = benches["classification"]
    assert bench.predict(Recipe()).accuracy == bench.baseline.accuracy


def test_one_bit_is_measured_and_not_predicted(benches: dict[str, wb.Bench]) -> None:
    bench = benches["classification"]
    recipe = wb.Recipe(quantization=wb.Quantization(weight_bits=1))
    with pytest.raises(RecipeError, match="2 to 8 bits"):
        bench.predict(recipe)
    assert bench.measure(recipe).complete  # and nothing is learned from it


def test_a_student_is_refused(benches: dict[str, wb.Bench]) -> None:
    bench = benches["classification"]
    with pytest.raises(RecipeError, match="student"):
        bench.forecast.predict(Recipe(distillation=Distillation(teacher="self")))


def test_a_layer_that_is_not_there_is_named(benches: dict[str, wb.Bench]) -> None:
    with pytest.raises(RecipeError, match="there is no layer"):
        benches["regression"].predict(Recipe(quantization=Quantization(layers={"conv9": {"weight_bits": 4}})))


def test_before_anything_was_measured_bits_alone_are_a_guess(store: Store) -> None:
    bench = classification(store)
    found = [bench.forecast.predict(Recipe(quantization=Quantization(weight_bits=b))).drop for b in (8, 4, 2)]
    assert found[0].value < found[1].value < found[2].value
    assert not bench.forecast.sensitivity.effects
