from __future__ import annotations

import json

import pytest

from widgets.figure import CONFIG, tradeoff_figure
from widgets.naming import names_of
from widgets.tradeoff import AGAINST, TradeOff, frontier, tradeoff_view
from workbench.errors import WorkbenchError
from workbench.frontier.shipped import imported
from workbench.recipe import Deployment, Distillation, Quantization, Recipe
from workbench.report import Estimate, MetricInfo


def quantized(bits, **more):
    return Recipe(quantization=Quantization(weight_bits=bits, **more))


@pytest.fixture
def tried(report):
    return (
        report(Recipe(), lost=0, gained=0, size=373_000, latency=(33e-6, 34e-6, 35e-6)),
        report(quantized(8), lost=10, gained=9, size=95_000),
        report(quantized(4), lost=100, gained=50, size=48_000),
        report(quantized(5), lost=300, gained=50, size=60_000, latency=None),
        report(quantized(2), lost=8_500, gained=10, size=25_000),
    )


def test_the_frontier_holds_what_nothing_beats(tried):
    assert [r.recipe.quantization.weight_bits for r in frontier(tried, AGAINST[0])] == [2, 4, 8, None]
    for report in tried:
        beaten = any(o.size.value <= report.size.value and o.accuracy.value > report.accuracy.value for o in tried)
        assert (report in frontier(tried, AGAINST[0])) != beaten


def test_points_and_axes(tried):
    view = tradeoff_view(tried, tried[2], tried[0])
    points = {point["name"]: point for point in view["points"]}
    assert points["W4"]["now"] and points["W4"]["label"] == "W4 (now)" and points["fp32"]["baseline"]
    assert points["W4"]["low"] < points["W4"]["y"] < points["W4"]["high"]
    by_size, by_latency = view["axes"]
    assert by_size["places"][tried[2].recipe.key]["spoken"] == "W4: 91.36\u202f%, 48.0\u202fkB"
    xs = [by_size["places"][r.recipe.key]["x"] for r in sorted(tried, key=lambda r: r.size.value)]
    assert xs == sorted(xs) and xs[0] > 0 and xs[-1] < 1
    assert tried[3].recipe.key not in by_latency["places"]
    assert [tick["text"] for tick in by_size["ticks"]] == ["30\u202fkB", "100\u202fkB", "300\u202fkB"]


def test_what_lies_far_below_stands_at_the_foot_with_its_number(tried):
    low = next(point for point in tradeoff_view(tried, None, tried[0])["points"] if point["name"] == "W2")
    assert low["below"] and low["y"] == 0 and low["label"] == "↓ 6.96\u202f%"


def test_a_growing_report_is_drawn_but_is_not_on_the_frontier(tried, report):
    growing = report(quantized(3), lost=1, gained=0, evaluated=1_000, size=10_000)
    view = tradeoff_view(tried, growing, tried[0])
    point = next(point for point in view["points"] if point["now"])
    assert point["growing"] and point["key"] not in view["axes"][0]["frontier"]
    assert not any(point["now"] for point in tradeoff_view(tried, growing, tried[0], stale=True)["points"])


def test_a_point_restores_its_recipe(session, send, tried):
    s = session(tried=tried)
    send(TradeOff(s), {"do": "restore", "key": tried[1].recipe.key})
    assert s.calls == [("restore", tried[1].recipe.key)] and s.problem == ""


def test_nothing_tried_is_a_sentence():
    view = tradeoff_view((), None, None)
    assert (view["points"], view["axes"], view["ticks"], view["label"]) == ([], [], [], "Nothing was tried yet.")


@pytest.fixture
def elsewhere(report):
    recipes = {quantized(8): (0, 90_000), quantized(4): (90, 47_000), quantized(3): (120, 36_000)}
    student = quantized(6).replace(distillation=Distillation(width=0.25))
    recipes |= {student: (200, 6_000), quantized(3, method="naive"): (9_000, 36_000)}
    return tuple(imported(report(r, lost=lost, gained=0, size=size)) for r, (lost, size) in recipes.items())


def test_what_was_measured_elsewhere_is_drawn_until_it_was_measured_here(tried, elsewhere):
    view = tradeoff_view(tried, tried[2], tried[0], imported=elsewhere)
    places = view["axes"][0]["imported"]
    drawn = {point["key"]: point for point in view["imported"]}
    assert [point["name"] for point in view["imported"]] == ["W3", "student ×0.25 + W6"]  # one is far below
    assert drawn.keys() == places.keys() and not drawn.keys() & view["axes"][0]["places"].keys()
    assert all(0 <= drawn[key]["y"] <= 1 and 0 < places[key]["x"] < 1 for key in drawn)
    assert places[elsewhere[2].recipe.key]["spoken"].endswith("36.0\u202fkB, imported")
    assert view["axes"][1]["imported"] == {}  # no latency comes along
    assert view["label"].endswith("5 recipes and 2 that were measured elsewhere")


def test_the_frontier_goes_through_what_was_measured_elsewhere(tried, elsewhere):
    view = tradeoff_view(tried, None, tried[0], imported=elsewhere)
    assert elsewhere[3].recipe.key in view["axes"][0]["frontier"]


def test_the_plot_is_full_before_anything_was_tried(elsewhere):
    view = tradeoff_view((), None, None, imported=elsewhere)
    assert view["points"] == [] and len(view["imported"]) == 4
    assert view["axes"][0]["frontier"][0] == elsewhere[3].recipe.key


def test_a_student_from_elsewhere_is_picked_first_and_its_cost_is_named(session, send, tried, elsewhere):
    student = elsewhere[3]
    trains = {student.recipe}
    s = session(tried=tried, imported=elsewhere)
    s.trains = trains.__contains__
    part = TradeOff(s)
    assert part.view["picked"] is None
    send(part, {"do": "pick", "key": student.recipe.key})
    assert s.calls == []
    assert "trained first" in part.view["picked"]["text"] and part.view["picked"]["button"] == "Train and measure"
    send(part, {"do": "measure", "key": student.recipe.key})
    assert s.calls == [("measure_imported", student.recipe.key)]
    send(part, {"do": "pick", "key": elsewhere[2].recipe.key})  # needs no training: measured at once
    assert s.calls[1:] == [("measure_imported", elsewhere[2].recipe.key)] and part.view["picked"] is None


def test_points_from_elsewhere_are_sent_again_only_when_they_move(session, tried, elsewhere):
    s = session(tried=tried, imported=elsewhere)
    s.trains = lambda recipe: False
    part = TradeOff(s)
    sent = []
    part.observe(lambda change: sent.append(change.new), "elsewhere")
    s.report = tried[2]
    part.refresh()
    assert sent == []
    s.tried = (*tried, imported(elsewhere[2]))
    part.refresh()
    assert [point["name"] for point in sent[-1]["points"]] == ["student ×0.25 + W6"]


def test_recipes_with_one_label_are_told_apart():
    recipes = [
        quantized(4),
        quantized(4, range="minmax"),
        Recipe(quantization=Quantization(weight_bits=8), deployment=Deployment(batch=32)),
    ]
    assert sorted(names_of(recipes).values()) == ["W4 · range minmax", "W4 · range mse", "W8"]
    many = [Recipe(deployment=Deployment(batch=b)) for b in (1, 2, 4)]
    assert len(set(names_of(many).values())) == 3


@pytest.mark.parametrize("against", ["size", "latency"])
def test_the_figure_has_the_same_points(tried, against):
    figure = tradeoff_figure(tried, against)
    marks = {
        key: y
        for trace in figure.data
        if trace.mode == "markers"
        for key, y in zip(trace.customdata, trace.y, strict=True)
    }
    expected = {r.recipe.key: 100 * r.accuracy.value for r in tried if getattr(r, against)}
    assert marks == pytest.approx(expected)
    assert json.loads(figure.to_json())["layout"]["xaxis"]["type"] == "log"
    assert CONFIG["showSendToCloud"] is False


def test_the_figure_takes_nothing_and_refuses_other_axes():
    assert tradeoff_figure(()).data[0].name == "frontier"
    with pytest.raises(WorkbenchError, match="'size'"):
        tradeoff_figure((), "weight")


def test_the_better_end_of_an_error_is_up(report):
    metric = MetricInfo(name="MAE", share=False, higher_is_better=False)

    def error(value, size, bits):
        made = report(Recipe(quantization=Quantization(weight_bits=bits)), size=size)
        estimate = Estimate(value=value, low=value - 1, high=value + 1, unit="", source="simulated")
        return made.model_copy(update={"metric": metric, "accuracy": estimate})

    reports = [error(40.0, 400, 8), error(43.0, 200, 4), error(55.0, 100, 2), error(60.0, 300, 3)]
    view = tradeoff_view(reports, reports[1], None)

    heights = {point["name"]: point["y"] for point in view["points"]}
    assert heights["W8"] > heights["W4"] > heights["W2"]
    assert view["points"][1]["low"] < view["points"][1]["y"] < view["points"][1]["high"]
    assert view["title"] == "MAE"
    ticks = [(tick["at"], float(tick["text"])) for tick in view["ticks"]]
    assert ticks == sorted(ticks) and [value for _, value in ticks] == sorted((v for _, v in ticks), reverse=True)
    assert len(view["axes"][0]["frontier"]) == 3  # W3 is larger than W4 and worse
