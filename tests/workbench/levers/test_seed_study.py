"""Whether a teacher helps over several seeds."""

from __future__ import annotations

import statistics
import threading

import pytest
import scipy.stats
from lever_bench import SETTINGS, bench

import workbench as wb
from workbench import Cancelled, Distillation, Estimate, Recipe, RecipeError
from workbench.levers.seed_study import HELPS, HURTS, NOTHING, SeedStudy
from workbench.report import Comparison
from workbench.store import Store


def comparison(difference: float, low: float | None = None) -> Comparison:
    gap = Estimate(
        value=difference,
        low=difference - 0.01 if low is None else low,
        high=difference + 0.01,
        unit="",
        source="measured",
    )
    own = {"student": Estimate.exact(0.8 + difference, ""), "control": Estimate.exact(0.8, "")}
    return Comparison(**own, difference=gap, teacher=Estimate.exact(0.9, ""), parameters=10, steps=5, seconds=1.0)


def study(*differences: float) -> SeedStudy:
    return SeedStudy(Distillation(), tuple(range(len(differences))), tuple(map(comparison, differences)))


def test_each_seed_is_an_ordinary_distillation_that_is_found_again(made: wb.Bench, store: Store) -> None:
    seen = list(made.over_seeds_stream(SETTINGS, 3))
    last = seen[-1]
    assert last.complete and last.progress is None and last.seeds == (0, 1, 2)
    assert [len(each.comparisons) for each in seen] == sorted(len(each.comparisons) for each in seen)
    assert {len(each.comparisons) for each in seen} == {0, 1, 2, 3}
    assert all(each.progress is not None for each in seen if each.student is None)
    for seed, each in enumerate(last.comparisons):
        *_, report = made.stream(Recipe(distillation=SETTINGS.replace(seed=seed)))
        assert report.accuracy == each.student
    again = list(bench(store).over_seeds_stream(SETTINGS, 2))
    assert [each.progress.step if each.progress else None for each in again[::2]] == [last.comparisons[0].steps] * 2
    assert again[-1].comparisons == last.comparisons[:2]


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.01, 0.03, 0.02, 0.05]
    made = study(*values).difference
    assert made is not None
    error = statistics.stdev(values) / 2
    low, high = scipy.stats.t.interval(0.95, 3, statistics.mean(values), error)
    assert (made.value, made.low, made.high) == pytest.approx((statistics.mean(values), low, high))


def test_of_one_seed_the_interval_is_that_of_its_images() -> None:
    one = study(0.02)
    assert one.difference == one.comparisons[0].difference


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [((0.05, 0.051, 0.049), HELPS), ((0.05, -0.05, 0.01), NOTHING), ((-0.05, -0.051, -0.049), HURTS), ((), "")],
)
def test_verdicts(differences: tuple[float, ...], verdict: str) -> None:
    assert study(*differences).verdict == verdict
    assert verdict in str(study(*differences))
    assert verdict in study(*differences)._repr_html_()


def test_soups_have_no_member_in_common(made: wb.Bench) -> None:
    soups = made.over_seeds_stream(SETTINGS.replace(soup=3, seed=5), 2)
    assert next(soups).seeds == (5, 8)


@pytest.mark.parametrize("seeds", [0, 11, -1, True, 2.0])
def test_other_numbers_of_seeds_are_refused(made: wb.Bench, seeds: int) -> None:
    with pytest.raises(RecipeError, match=r"allowed are 1 to 10"):
        made.over_seeds(SETTINGS, seeds)


def test_a_cancel_keeps_the_seeds_that_were_finished(made: wb.Bench) -> None:
    cancel = threading.Event()
    for each in made.over_seeds_stream(SETTINGS, 3, cancel):
        if len(each.comparisons) == 1:
            cancel.set()
    assert (len(each.comparisons), each.complete, each.progress) == (1, False, None)
    assert "1 of 3 seeds" in str(each)
    assert made.distilled(SETTINGS)
    assert not made.distilled(SETTINGS.replace(seed=2))
    with pytest.raises(Cancelled):
        made.over_seeds(SETTINGS.replace(seed=7), 3, cancel)


def test_seeds_that_were_stopped_are_left_out_of_the_comparison(made: wb.Bench) -> None:
    assert made.seeds_so_far(SETTINGS, 3).comparisons == ()
    for seed in (0, 2):
        list(made.distil(SETTINGS.replace(seed=seed)))
    long, cancel = SETTINGS.replace(seed=1), threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.distillation.pair.TRAINED_BETWEEN", 64)
        for progress in made.distil(long, cancel):
            if progress.step >= 2:
                cancel.set()
    assert progress.cancelled and progress.kept and made.distilled(long)
    found = made.seeds_so_far(SETTINGS, 3)
    assert found.seeds == (0, 2, 1) and not found.complete
    assert "2 of 3 seeds" in str(found) and found.verdict in str(found)
    whole = made.over_seeds(SETTINGS, 3)
    assert found.comparisons == (whole.comparisons[0], whole.comparisons[2])
