from __future__ import annotations

from widgets.desk import Foreseen
from widgets.foresight import Foresight, foresight_view
from workbench.report import Estimate, MetricInfo


def foreseen(predicted, measured, half=0.002, **metric):
    def estimate(value, half, source):
        return Estimate(value=value, low=value - half, high=value + half, unit="", source=source)

    key = f"{predicted} {measured}"
    info = MetricInfo(**metric)
    return Foreseen(
        key, f"W{key}", estimate(predicted, half, "predicted"), estimate(measured, 0.001, "simulated"), info
    )


def test_nothing_is_drawn_before_there_are_two(session):
    s = session(foreseen=(foreseen(0.01, 0.012),))
    part = Foresight(s)
    assert part.view["points"] == []
    s.foreseen = (foreseen(0.01, 0.012), foreseen(0.03, 0.02))
    part.refresh()
    assert len(part.view["points"]) == 2


def test_it_says_how_far_off_and_how_many_intervals_held():
    view = foresight_view([foreseen(0.010, 0.012), foreseen(0.030, 0.024), foreseen(0.0, 0.0)])
    assert view["text"] == "Off by 0.27 points on average."
    assert view["held"] == "95 % intervals held 2 of 3"
    assert [point["held"] for point in view["points"]] == [True, False, True]


def test_what_was_predicted_rightly_lies_on_the_diagonal_and_too_much_below_it():
    right, too_much = foresight_view([foreseen(0.01, 0.01), foreseen(0.03, 0.02)])["points"]
    assert right["x"] == right["y"]
    assert too_much["x"] > too_much["y"]
    for point in (right, too_much):
        assert point["left"] < point["x"] < point["right"] and point["low"] < point["y"] < point["high"]


def test_a_metric_that_is_no_share_is_in_its_own_unit():
    view = foresight_view(
        [foreseen(1.0, 2.0, 3.0, name="MAE", share=False), foreseen(4.0, 3.0, name="MAE", share=False)]
    )
    assert view["unit"] == "MAE" and view["text"] == "Off by 1.00 MAE on average."
    assert "predicted 1.00, measured 2.00 MAE" in view["points"][0]["spoken"]
