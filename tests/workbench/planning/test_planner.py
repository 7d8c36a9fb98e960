"""Plans: budgets that are kept, refusals that name the nearest, cancelling at any time."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import workbench as wb
from workbench import Quantization, Recipe, RecipeError
from workbench.errors import PlanError
from workbench.planning import sensitivity
from workbench.planning.explanation import MORE_BYTES, exchanges
from workbench.planning.plan import amount, kilobytes
from workbench.planning.space import Space
from workbench.quantization.quantizer import specs
from workbench.store import Store

sys.path.insert(0, str(Path(__file__).parent))
from small import KINDS, classification, regression

BITS = (2, 4, 8)


@pytest.fixture(autouse=True)
def few_mixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "MIXES", 16)


def uniform(bench: wb.Bench, bits: int) -> wb.Report:
    *_, report = bench.stream(Recipe(quantization=Quantization(weight_bits=bits, activation_bits=8)))
    return report


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_keeps_its_bytes_and_is_no_worse_than_uniform_bits(kind: str, store: Store) -> None:
    bench = KINDS[kind](store)
    plain = uniform(bench, 4)
    plan = bench.plan(max_bytes=plain.size.value + 60, bits=BITS, evaluations=8)
    assert plan.report.size.value <= plain.size.value + 60
    assert plan.report.size.value == len(bench._network.artifact(plan.recipe.quantization, plan.recipe.to_json()))
    assert plan.report.complete
    assert plan.kept
    assert plan.complete
    assert 0 < plan.evaluations <= 8
    assert plan.report.recipe == plan.recipe
    assert plan.report.drop.value <= plain.drop.value + 0.02 * max(1.0, abs(bench.baseline.accuracy.value))
    assert [reason.layer for reason in plan.reasons] == [layer.name for layer in bench.layers]
    assert sum(reason.share for reason in plan.reasons) == pytest.approx(1, abs=1e-6)
    assert all(
        a.size.value < b.size.value and a.drop.value > b.drop.value for a, b in itertools.pairwise(plan.frontier)
    )


def test_every_mix_measured_is_the_exhaustive_answer(store: Store) -> None:
    bench = regression(store)
    space = Space(Recipe(quantization=Quantization(activation_bits=8)), BITS, bench._network.layers)
    every = [
        list(bench.stream(space.recipe(options)))[-1]
        for options in itertools.product(*(range(len(own)) for own in space.options))
    ]
    budget = sorted(report.size.value for report in every)[len(every) // 2]
    plan = bench.plan(max_bytes=budget, bits=BITS, evaluations=len(every))
    assert plan.report.drop.value == min(report.drop.value for report in every if report.size.value <= budget)
    most = sorted(report.drop.value for report in every)[len(every) // 3]
    plan = bench.plan(max_drop=most, bits=BITS, evaluations=len(every))
    assert plan.report.size.value == min(report.size.value for report in every if report.drop.value <= most)


def test_a_recipe_of_the_space_asks_what_the_space_says(store: Store) -> None:
    bench = classification(store)
    template = Recipe(
        quantization=Quantization(activation_bits=8, layers={"2": {"activation_bits": 4}, "5": {"weight_bits": 6}})
    )
    space = Space(template, BITS, bench._network.layers)
    assert [len(own) for own in space.options] == [3, 3, 1]
    for options in itertools.product(*(range(len(own)) for own in space.options)):
        asked = specs(space.recipe(options).quantization, bench._network.layers)
        assert asked == space.asked(options)
        for other in space.neighbours(options):
            assert other != options
            space.asked(other)


GRIDS = ("symmetric", "codebook")


def test_a_recipe_of_several_grids_asks_what_the_space_says(store: Store) -> None:
    bench = classification(store)
    layers = {"2": {"weight_bits": 4}, "5": {"scheme": "affine"}}
    template = Recipe(quantization=Quantization(activation_bits=8, layers=layers))
    space = Space(template, BITS, bench._network.layers, GRIDS)
    assert [len(own) for own in space.options] == [6, 2, 3]  # two grids at 4 bits; affine at three bit-widths
    for options in itertools.product(*(range(len(own)) for own in space.options)):
        recipe = space.recipe(options)
        assert specs(recipe.quantization, bench._network.layers) == space.asked(options)
        assert Recipe.from_json(recipe.to_json()) == recipe
        for layer, at in enumerate(options):
            here, lower = space.options[layer][at].weight, space.lower(layer, at)
            fewer = [each.weight.bits for each in space.options[layer] if each.weight.scheme == here.scheme]
            fewer = [bits for bits in fewer if bits < here.bits]
            assert (lower is None) == (not fewer)
            if lower is not None:
                then = space.options[layer][lower].weight
                assert (then.bits, then.scheme) == (max(fewer), here.scheme)


def test_every_mix_can_be_reached_step_by_step(store: Store) -> None:
    bench = regression(store)
    template = Recipe(quantization=Quantization(activation_bits=8))
    space = Space(template, BITS, bench._network.layers, GRIDS)
    every = set(itertools.product(*(range(len(own)) for own in space.options)))
    found = {tuple(0 for _ in space.options)}
    edge = set(found)
    while edge:
        edge = {other for options in edge for other in space.neighbours(options)} - found
        found |= edge
    assert found == every


def test_grids_by_layer_are_no_worse_than_one_grid_for_all(store: Store) -> None:
    bench = regression(store)
    budget = 2 * uniform(bench, 3).size.value  # room for a codebook in every layer
    bits = (3,)
    count = (len(bits) * len(GRIDS)) ** len(bench.layers)
    both = bench.plan(max_bytes=budget, bits=bits, schemes=GRIDS, evaluations=count)
    single = [bench.plan(max_bytes=budget, bits=bits, schemes=[each], evaluations=count) for each in GRIDS]
    assert both.report.size.value <= budget
    assert both.report.drop.value <= min(plan.report.drop.value for plan in single)
    assert {reason.scheme for reason in both.reasons} <= set(GRIDS)
    assert {row.weight_bits for row in single[1].report.layers} <= set(bits)


def test_grids_by_layer_and_a_latency_are_refused(store: Store) -> None:
    with pytest.raises(RecipeError, match="one scheme"):
        classification(store).plan(max_latency=1.0, schemes=GRIDS)


def test_too_few_bytes_are_refused_with_the_smallest(store: Store) -> None:
    bench = classification(store)
    smallest = uniform(bench, 2)
    with pytest.raises(PlanError, match=f"{int(smallest.size.value):,} bytes") as refused:
        bench.plan(max_bytes=100, bits=BITS)
    assert refused.value.nearest.size.value == smallest.size.value
    plan = bench.plan(max_bytes=refused.value.nearest.size.value, bits=BITS, evaluations=1)
    assert plan.report.size.value == smallest.size.value


@pytest.mark.parametrize("evaluations", [0, 3])
def test_a_drop_that_none_keeps_is_refused_with_the_least(evaluations: int, store: Store) -> None:
    bench = classification(store)
    with pytest.raises(PlanError, match="nearest with") as refused:
        bench.plan(max_drop=-0.5, bits=BITS, evaluations=evaluations)
    assert refused.value.nearest.drop.value > -0.5


def test_a_latency_that_nothing_keeps_is_refused(store: Store) -> None:
    with pytest.raises(PlanError, match="fastest way takes"):
        classification(store).plan(max_latency=1e-12, bits=BITS)


def test_a_latency_that_is_kept_is_in_the_report(store: Store) -> None:
    plan = classification(store).plan(max_latency=60.0, bits=BITS, evaluations=2)
    assert plan.report.latency is not None
    assert plan.report.latency.value <= 60


def test_without_evaluations_all_is_predicted(store: Store) -> None:
    bench = classification(store)
    plan = bench.plan(max_bytes=uniform(bench, 4).size.value, bits=BITS, evaluations=0)
    assert plan.evaluations == 0
    assert plan.report.drop.source == "predicted"
    assert plan.frontier == plan.predicted


def test_layers_that_the_template_names_keep_their_bits(store: Store) -> None:
    bench = classification(store)
    template = Recipe(quantization=Quantization(activation_bits=6, layers={"2": {"weight_bits": 3}}))
    plan = bench.plan(template=template, bits=BITS, evaluations=2)
    rows = {row.name: row for row in plan.report.layers}
    assert rows["2"].weight_bits == 3
    assert {row.activation_bits for row in rows.values()} == {6}


@pytest.mark.parametrize("after", [0, 1, 2, 10, 60, 75, 78])
def test_cancelling_at_any_time_gives_a_valid_plan_and_leaves_no_thread(after: int, store: Store) -> None:
    before = set(threading.enumerate())
    bench, cancel, seen = classification(store), threading.Event(), []
    budget = 1.1 * uniform(bench, 4).size.value
    if after == 0:
        cancel.set()
    for plan in bench.plan_stream(max_bytes=budget, bits=BITS, evaluations=6, cancel=cancel):
        seen.append(plan)
        if len(seen) == after:
            cancel.set()
    assert len(seen) <= after + 2
    last = seen[-1]
    assert last.complete
    assert last.report.size.value <= budget
    assert last.recipe == last.report.recipe
    bench.check(last.recipe)
    assert set(threading.enumerate()) <= before


def test_plans_grow(store: Store) -> None:
    bench = classification(store)
    plans = list(bench.plan_stream(max_bytes=uniform(bench, 4).size.value, bits=BITS, evaluations=5))
    done = [plan.evaluations for plan in plans]
    assert done == sorted(done)
    assert not any(plan.complete for plan in plans[:-1])
    assert plans[-1].complete
    drops = [plan.report.drop.value for plan in plans if plan.evaluations and plan.kept]
    assert drops == sorted(drops, reverse=True)


def test_a_plan_explains_itself(store: Store) -> None:
    plan = classification(store).plan(bits=BITS, evaluations=3)
    for text in (str(plan), plan._repr_html_()):
        assert "of the expected drop" in text
        assert plan.recipe.label in text
    for reason in plan.reasons:
        assert reason.text.startswith(reason.layer)
    for exchange in plan.exchanges:
        assert (exchange.bytes > 0 and exchange.drop < 0) or exchange.bytes < 0


@pytest.mark.parametrize("bits", [(), (1, 2), (4, 9), (True,), ("4",)])
def test_bits_that_are_not_allowed_are_named(bits: tuple[object, ...], store: Store) -> None:
    with pytest.raises(RecipeError, match="bits = "):
        classification(store).plan(bits=bits)


def test_what_a_little_more_buys_is_said_in_bytes_and_drops_that_it_has(store: Store) -> None:
    plan = classification(store).plan(max_bytes=uniform(classification(store), 4).size.value, bits=BITS, evaluations=3)
    assert plan.exchanges
    for exchange in plan.exchanges:
        assert kilobytes(abs(exchange.bytes)) in exchange.text
        if exchange.bytes > 0 or exchange.drop > 0:
            assert amount(abs(exchange.drop), plan.report.metric) in exchange.text
        if exchange.bytes > 0:
            assert exchange.bytes <= MORE_BYTES
            assert exchange.text.startswith(f"Of {kilobytes(MORE_BYTES)} more, ")


def test_of_a_large_model_a_hundredth_is_what_a_little_more_is(store: Store) -> None:
    bench = classification(store)
    space = Space(Recipe(quantization=Quantization(activation_bits=8)), BITS, bench._network.layers)
    last = tuple(len(own) - 1 for own in space.options)
    costs = [[0.0, 0.01, 0.1] for _ in space.options]
    sizes = [[100_000 * bits for bits in space.bits] for _ in space.options]
    sizes[0] = [65_000, 63_000, 60_000]  # one layer's next step costs more than 1 kB, and less than a hundredth

    def drops(mixes: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
        made = [sum(own[at] for own, at in zip(costs, options, strict=True)) for options in mixes]
        return np.array(made), np.zeros(len(made))

    won, *_ = exchanges(space, last, costs, sizes, bench.baseline.metric, drops)
    assert (won.bytes, round(won.drop, 6)) == (3_000, -0.09)
    assert won.text == "Of 4.6 kB more, 3.0 kB would win back 9.00 points: 0 from 2 to 4 bits."


def test_what_a_step_would_lose_is_what_is_predicted(store: Store) -> None:
    bench = classification(store)
    space = Space(Recipe(quantization=Quantization(activation_bits=8)), BITS, bench._network.layers)
    first = tuple(0 for _ in space.options)
    costs, sizes = [[0.0, 0.0004, 0.1] for _ in space.options], [[3000, 2000, 1000] for _ in space.options]
    texts = []
    for lost in (0.003, -0.001):

        def drops(mixes: Sequence[tuple[int, ...]], lost: float = lost) -> tuple[np.ndarray, np.ndarray]:
            return np.array([lost * (mixes[0] != first)]), np.zeros(1)

        made = exchanges(space, first, costs, sizes, bench.baseline.metric, drops)
        assert [exchange.drop for exchange in made] == [lost]
        texts.append(made[0].text)
    assert texts[0].startswith("0.30 points more to lose would save 2.0 kB")
    assert texts[1].startswith("2.0 kB could be saved, and nothing more would be lost")


def test_a_latency_that_was_not_timed_is_not_kept(store: Store) -> None:
    cancel = threading.Event()
    cancel.set()
    bench = classification(store)
    plan = bench.plan(max_latency=60.0, bits=BITS, evaluations=2, cancel=cancel)
    assert plan.report.latency is None
    assert not plan.kept
    assert "which was not timed" in str(plan)
    assert bench.plan(max_latency=60.0, bits=BITS, evaluations=1).kept
    again = bench.plan(max_latency=60.0, bits=BITS, evaluations=2, cancel=cancel)  # the kernels are timed by now
    assert again.report.latency is not None
    assert again.kept


NO_NUMBERS = (float("nan"), "9k", True)


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        *itertools.product(("max_bytes", "max_drop", "max_latency"), (*NO_NUMBERS, float("inf"))),
        *itertools.product(("max_bytes", "max_latency"), (0, -1.0)),
        *itertools.product(("evaluations", "seconds", "limit"), (*NO_NUMBERS, -3)),
        *itertools.product(("evaluations", "limit"), (2.5, float("inf"))),
    ],
)
def test_what_is_no_such_number_is_refused_at_once(
    asked: str, value: object, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = classification(store)
    recipe = Recipe(quantization=Quantization(weight_bits=4))
    monkeypatch.setattr(wb.Bench, "stream", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(RecipeError, match=f"{asked} = {value!r}: "):
        if asked == "seconds":
            bench.auto(recipe, seconds=value)
        elif asked == "limit":
            bench.flips(recipe, limit=value)
        else:
            bench.plan(bits=BITS, **{asked: value})
