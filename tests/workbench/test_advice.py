"""The sentence says what the numbers say."""

from __future__ import annotations

from workbench import Quantization, Recipe
from workbench.advice import advise
from workbench.report import Estimate, Flips, LayerRow, Report


def estimate(value: float, half: float = 0.001, unit: str = "") -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, unit=unit, source="simulated")


def report(size: float, speedup: Estimate | None = None, drop: float = 0.02, costs: dict | None = None, **q) -> Report:
    quantization = Quantization(**q)
    return Report(
        recipe=Recipe(quantization=quantization),
        evaluated=1000,
        total=1000,
        accuracy=estimate(0.9),
        drop=estimate(drop, 0.005),
        flips=Flips(lost=1, gained=1, n=1000, p_value=1),
        size=Estimate.exact(size, "B"),
        speedup=speedup,
        layers=tuple(
            LayerRow(
                name=name,
                kind="Linear",
                shape=(1,),
                parameters=1,
                weight_bits=quantization.bits_for(name)[0],
                activation_bits=quantization.bits_for(name)[1],
                bytes=1,
                sqnr=1.0,
                cost=estimate(cost),
            )
            for name, cost in (costs or {}).items()
        ),
        running="4-bit weights run in 8-bit kernels on this machine.",
    )


BASELINE = report(40_000, drop=0)


def attempt(won: float, half: float = 0.001, added: float = 18_000):
    tried: list[Recipe] = []

    def run(recipe: Recipe) -> tuple[Estimate, float]:
        tried.append(recipe)
        return estimate(won, half), added

    return run, tried


def test_the_layer_that_costs_most_is_named_and_mended() -> None:
    run, tried = attempt(0.01)
    told = advise(report(5_000, costs={"fc1": 0.011, "fc2": 0.002}, weight_bits=4, activation_bits=8), BASELINE, run)
    assert told.verdict.startswith("8.0× smaller")
    assert told.reason == "4-bit weights run in 8-bit kernels on this machine."
    assert told.suggestion == (
        "Half of the loss comes from fc1; at 8 bits it would cost 18.0 kB more and win back 1.00 points."
    )
    assert told.recipe == tried[0]
    assert told.recipe.quantization.bits_for("fc1") == (8, 8)
    assert told.recipe.quantization.bits_for("fc2") == (4, 8)


def test_a_layer_at_8_bits_is_offered_fp32() -> None:
    run, _ = attempt(0.01)
    told = advise(report(5_000, costs={"fc1": 0.02}, weight_bits=8, activation_bits=8), BASELINE, run)
    assert "in fp32" in told.suggestion
    assert told.recipe is not None
    assert told.recipe.quantization.bits_for("fc1") == (None, None)


def test_weights_alone_stay_weights_alone() -> None:
    run, _ = attempt(0.01)
    told = advise(report(5_000, costs={"fc1": 0.02}, weight_bits=2), BASELINE, run)
    assert told.recipe is not None
    assert told.recipe.quantization.bits_for("fc1") == (8, None)


def test_a_mend_that_wins_nothing_is_not_offered() -> None:
    run, _ = attempt(0.0005, half=0.002)
    told = advise(report(5_000, costs={"fc1": 0.011}, weight_bits=4), BASELINE, run)
    assert told.recipe is None
    assert "fc1" in told.suggestion


def test_where_no_layer_stands_out_all_get_one_bit_more() -> None:
    run, _ = attempt(0.004)
    told = advise(report(5_000, costs={"fc1": 0.0005}, weight_bits=3, activation_bits=8), BASELINE, run)
    assert told.suggestion == (
        "No single layer stands out; 4-bit weights would cost 18.0 kB more and win back 0.40 points."
    )
    assert told.recipe is not None
    assert told.recipe.quantization.weight_bits == 4
    run, _ = attempt(0.0, half=0.002)
    told = advise(report(5_000, costs={"fc1": 0.0005}, weight_bits=3), BASELINE, run)
    assert told.recipe is None


def test_where_nothing_is_lost_it_goes_lower() -> None:
    run, _ = attempt(-0.001, half=0.002, added=-9_000)
    told = advise(report(9_000, drop=0.001, costs={"fc1": 0.0}, weight_bits=4), BASELINE, run)
    assert told.suggestion == "No loss can be measured; 3-bit weights would save 9.0 kB and cost nothing measurable."
    assert told.recipe is not None
    assert told.recipe.quantization.weight_bits == 3


def test_the_baseline_is_told_what_to_try_first() -> None:
    run, _ = attempt(0.0, added=-30_000)
    told = advise(BASELINE, BASELINE, run)
    assert told.verdict == "The baseline: nothing is quantized"
    assert told.suggestion == "8 bits everywhere would save 30.0 kB, with no measurable loss."


def test_speed_is_said_only_where_it_can_be_told_apart() -> None:
    run, _ = attempt(0.01)

    def verdict(speedup: Estimate) -> str:
        return advise(report(5_000, speedup, costs={"fc1": 0.02}, weight_bits=4), BASELINE, run).verdict

    assert verdict(estimate(1.02, 0.1)) == "8.0× smaller, not distinguishable in speed here"
    assert verdict(estimate(2.0, 0.1)) == "8.0× smaller, 2.00× faster here"
    assert verdict(estimate(0.5, 0.1)) == "8.0× smaller, 2.00× slower here"
    assert verdict(estimate(0.995, 0.001)) == "8.0× smaller, as fast here"
