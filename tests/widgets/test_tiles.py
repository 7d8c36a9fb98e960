from __future__ import annotations

import re

import pytest

from widgets.tiles import Tiles, tiles_view
from workbench.recipe import Deployment, Recipe
from workbench.report import Advice, Estimate, MetricInfo


def tile(view, name):
    return next(each for each in view["tiles"] if each["name"].split(",")[0] == name)


def words(tile):
    return "".join(part["text"] for part in tile["parts"])


def tones(tile):
    return {part["tone"] for part in tile["parts"]} - {"", "long"}


def test_a_loss_is_written_with_its_interval_and_in_the_colour_of_a_loss(report):
    accuracy = tile(tiles_view(report(lost=127, gained=83), report(lost=0, gained=0)), "Accuracy")
    assert (accuracy["value"], accuracy["unit"]) == ("91.42", "%")
    assert re.fullmatch(r"−0\.44 points \(−0\.\d\d … −0\.\d\d\)", words(accuracy))
    assert tones(accuracy) == {"loss"}
    assert accuracy["badge"] == {"origin": "simulated", "word": "simulated"}
    assert accuracy["bar"]["low"] < accuracy["bar"]["at"] < accuracy["bar"]["high"] < accuracy["bar"]["baseline"]


def test_a_gain_is_a_gain(report):
    accuracy = tile(tiles_view(report(lost=20, gained=90), None), "Accuracy")
    assert words(accuracy).startswith("+0.70 points (+") and tones(accuracy) == {"gain"}
    assert accuracy["bar"]["low"] > accuracy["bar"]["baseline"]


def test_a_difference_inside_its_interval_is_grey(report):
    view = tiles_view(report(lost=50, gained=48, speedup=(0.98, 1.05, 1.15)), None)
    for name in ("Accuracy", "Latency"):
        assert words(tile(view, name)).startswith("not distinguishable (")
        assert tones(tile(view, name)) == set()
        bar = tile(view, name)["bar"]
        assert bar["low"] <= bar["baseline"] <= bar["high"]


@pytest.mark.parametrize(
    ("speedup", "text", "tone"),
    [
        ((1.8, 1.9, 2.1), "1.90× faster (1.80 … 2.1×)", "gain"),
        ((0.5, 0.625, 0.8), "1.60× slower (1.25 … 2.0×)", "loss"),
    ],
)
def test_speed_is_written_from_the_side_that_a_person_takes(report, speedup, text, tone):
    latency = tile(tiles_view(report(speedup=speedup), None), "Latency")
    assert words(latency) == text and tones(latency) == {tone}
    assert (latency["bar"]["at"] < 0.5) == (tone == "gain")


def test_size_against_the_baseline(report):
    base = report(lost=0, gained=0, size=373_280)
    smaller, larger = (tile(tiles_view(report(size=s), base), "Size") for s in (48_900, 2 * 373_280))
    assert words(smaller) == "7.6× smaller than 373\u202fkB" and tones(smaller) == {"gain"}
    assert smaller["bar"]["share"] == pytest.approx(48_900 / 373_280, abs=1e-4)
    assert words(larger).startswith("2.0× larger") and tones(larger) == {"loss"} and larger["bar"]["share"] == 1


def test_flips_are_counted_both_ways(report):
    flips = tile(tiles_view(report(lost=127, gained=93), None), "Flips")
    assert (flips["value"], flips["unit"]) == ("220", "of 10,000")
    assert words(flips).startswith("127 lost · 93 won (p = 0.0")
    assert flips["badge"] == {"origin": "measured", "word": "counted"}
    assert flips["bar"]["share"] == pytest.approx(127 / 220, abs=1e-4)


def test_the_baseline_is_called_so(report):
    base = report(Recipe(), lost=0, gained=0, speedup=(0.99, 1.0, 1.02))
    view = tiles_view(base, base)
    assert [words(tile(view, name)) for name in ("Accuracy", "Size", "Latency", "Flips")] == ["the baseline"] * 3 + [
        "the same answers"
    ]


def test_states_while_it_computes(report):
    partial = report(evaluated=1_000, lost=20, gained=10, latency=None, speedup=None)
    earlier = report()
    view = tiles_view(partial, None, busy=True, earlier=earlier)
    assert [each["state"] for each in view["tiles"]] == ["growing", "final", "stale", "growing"]
    assert tile(view, "Latency")["value"] == "32.0"
    assert {each["state"] for each in tiles_view(earlier, None, stale=True)["tiles"]} == {"stale"}
    alone = tile(tiles_view(partial, None, busy=True), "Latency")
    assert (alone["value"], words(alone), alone["bar"]) == ("–", "measuring…", None)


def test_the_interval_shrinks_on_an_axis_that_stays(report):
    widths = []
    for seen in (1_000, 3_000, 10_000):
        bar = tile(tiles_view(report(evaluated=seen, lost=seen // 100, gained=seen // 250), None), "Accuracy")["bar"]
        widths.append(bar["high"] - bar["low"])
    assert widths == sorted(widths, reverse=True) and widths[-1] < widths[0] / 2


@pytest.mark.parametrize("lost", [0, 1, 500, 9_000])
@pytest.mark.parametrize("speedup", [None, (0.001, 0.01, 0.02), (50, 100, 1000), (0, 0, 1)])
def test_bars_stay_inside_their_tile(report, lost, speedup):
    for each in tiles_view(report(lost=lost, gained=0, speedup=speedup), report(size=0.5))["tiles"]:
        for key, value in (each["bar"] or {}).items():
            assert key == "kind" or 0 <= value <= 1


def test_a_batch_is_named(report):
    recipe = Recipe(deployment=Deployment(batch=32))
    assert tiles_view(report(recipe), None)["tiles"][2]["name"] == "Latency, batch 32"


def test_the_last_latency_bridges_a_measurement_but_not_to_another_model(session, report):
    s = session(report=report(), baseline=report(lost=0, gained=0))
    part = Tiles(s)
    s.busy, s.report = True, report(evaluated=1_000, lost=10, gained=5, latency=None, speedup=None)
    assert tile(part.draw(), "Latency")["value"] == "32.0"
    s.baseline = None
    assert tile(part.draw(), "Latency")["value"] == "–"


def as_error(report, lost):
    """The same report of a metric that is better when it is smaller."""
    metric = MetricInfo(name="MAE", unit="mm", share=False, higher_is_better=False)
    estimate = Estimate(value=45.6, low=41.0, high=49.0, unit="mm", source="simulated")
    drop = Estimate(value=lost, low=lost - 1, high=lost + 1, unit="mm", source="simulated")
    return report.model_copy(update={"metric": metric, "accuracy": estimate, "drop": drop})


def test_an_error_that_grows_is_a_loss_in_its_own_unit(report):
    tile, _, _, flips = tiles_view(as_error(report(), 2.0), report(lost=0, gained=0))["tiles"]

    assert (tile["name"], tile["value"], tile["unit"]) == ("MAE", "45.60", "mm")
    assert tile["parts"][0] == {"text": "+2.00", "tone": "loss"}
    assert tile["parts"][1]["text"] == " mm (+1.00 … +3.00)"
    assert 0 <= tile["bar"]["low"] <= tile["bar"]["at"] <= tile["bar"]["high"] <= tile["bar"]["baseline"]
    assert flips["name"] == "Worse"
    assert "worse" in flips["parts"][0]["text"]


def test_an_error_that_shrinks_is_a_gain(report):
    tile = tiles_view(as_error(report(), -2.0), report(lost=0, gained=0))["tiles"][0]

    assert tile["parts"][0] == {"text": "−2.00", "tone": "gain"}
    assert tile["bar"]["at"] > tile["bar"]["baseline"]


def predicted(report, recipe=None, latency=None):
    made = report(recipe, lost=200, gained=40, latency=latency)
    changes = {name: getattr(made, name).model_copy(update={"source": "predicted"}) for name in ("accuracy", "drop")}
    return made.model_copy(update={"evaluated": 0, **changes})


def test_a_prediction_stands_in_until_something_was_measured(report):
    old, ahead = report(), predicted(report)
    view = tiles_view(old, report(lost=0, gained=0), stale=True, busy=True, earlier=old, prediction=ahead)
    accuracy = tile(view, "Accuracy")
    assert accuracy["badge"]["origin"] == "predicted" and accuracy["state"] == "final"
    assert "predicted from what each layer costs" in accuracy["title"] and " 0 examples" not in accuracy["title"]
    assert tile(view, "Size")["state"] == "final"
    assert tile(view, "Latency")["state"] == tile(view, "Flips")["state"] == "stale"
    assert tile(view, "Latency")["value"] == tile(tiles_view(old, None), "Latency")["value"]
    measured = tiles_view(report(evaluated=1_000), None, busy=True, prediction=ahead)
    assert tile(measured, "Accuracy")["badge"]["origin"] == "simulated"


def test_a_latency_of_the_same_kernels_is_foreseen_too(report):
    ahead = predicted(report, latency=(30e-6, 32e-6, 34e-6))
    ahead = ahead.model_copy(update={"latency": ahead.latency.model_copy(update={"source": "predicted"})})
    view = tiles_view(report(latency=None), None, stale=True, prediction=ahead)
    assert tile(view, "Latency")["badge"]["origin"] == "predicted" and tile(view, "Latency")["state"] == "final"
    assert tile(tiles_view(None, None, busy=True, prediction=ahead), "Flips")["state"] == "empty"


def test_a_latency_that_was_disturbed_is_marked(report):
    plain, doubtful = report(), report().model_copy(update={"disturbances": ("Other work took 1.9 of 2 processors.",)})
    quiet, marked = (tile(tiles_view(each, report(Recipe())), "Latency") for each in (plain, doubtful))
    assert marked["parts"] == [*quiet["parts"], {"text": "\u202f▲", "tone": "loss"}]
    assert "Other work" in marked["title"] and "Other work" not in quiet["title"]


def test_what_the_runtime_cannot_take_leaves_the_other_tiles_and_a_reason(report):
    why = "onnxruntime crashed on this model (SIGABRT). Choose another runtime."
    advice = Advice(verdict="4× smaller", reason="", suggestion="")
    failed = report(latency=None, speedup=None, untimed=why, advice=advice)
    accuracy, size, latency, flips = tiles_view(failed, report(Recipe()))["tiles"]
    assert (latency["value"], latency["title"]) == ("–", why)
    assert latency["parts"] == [{"text": "could not be timed here", "tone": "loss"}]
    assert all(tile["value"] != "–" for tile in (accuracy, size, flips))
    cancelled = report(latency=None, speedup=None)
    assert tiles_view(cancelled, None)["tiles"][2]["parts"][0]["text"] == "not measured"
