from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from widgets.learning_curves import MOST_POINTS, curves_view, said_of
from widgets.lessons import Lap
from workbench import statistics
from workbench.levers.seed_study import SeedStudy
from workbench.recipe import Distillation
from workbench.report import Comparison


def progress(step, steps=100, student=0.8, control=0.7, cancelled=False, **more):
    def share(value):
        return None if value is None else statistics.proportion(round(2000 * value), 2000, "measured")

    return SimpleNamespace(
        step=step,
        steps=steps,
        seconds=step / 10,
        samples_per_second=1234.5,
        student=share(student),
        control=share(control),
        cancelled=cancelled,
        kept=student is not None,
        **({"loss": 1.0, "parts": {}} | more),
    )


def compared(won, lost):
    share = statistics.proportion(8000, 10000, "measured")
    difference = statistics.paired_difference(won, lost, 10000, "measured")
    return Comparison(
        student=share, control=share, difference=difference, teacher=share, parameters=1, steps=1, seconds=1.0
    )


def test_empty_and_starting_states_are_a_sentence():
    assert "Distil a student" in curves_view((), None, training=False, applied=False)["quiet"]
    without = curves_view((), None, training=False, applied=False, noun="sentences", possible=False)
    assert without["quiet"] == "No student can learn here: the task has no training sentences."
    assert "trained before" in curves_view((), None, training=False, applied=True)["quiet"]
    starting = curves_view((progress(0, student=None, control=None),), None, training=True, applied=False)
    assert starting["quiet"] and starting["lines"] == []


def test_lines_lie_within_the_picture_and_band_holds_line():
    view = curves_view(
        [progress(k, student=0.1 + k / 130, control=0.1 + k / 200) for k in range(0, 101, 5)],
        None,
        training=True,
        applied=False,
    )
    assert [line["text"] for line in view["lines"]] == ["with teacher", "control"]
    for line in view["lines"]:
        for x, y, low, high in line["points"]:
            assert 0 <= x <= 1 and 0 <= low <= y <= high <= 1
    assert "step 100 of 100" in view["foot"] and "1,23" in view["foot"]


def test_time_left_while_training_and_the_whole_width_once_it_ended():
    curve = [progress(k, student=0.2 + k / 100) for k in range(51)]
    running = curves_view(curve, None, training=True, applied=False)
    assert "5\u202fs left" in running["foot"] and running["lines"][0]["points"][-1][0] == pytest.approx(0.5)
    stopped = curves_view([*curve[:-1], progress(50, student=0.9, cancelled=True)], None, training=False, applied=True)
    assert "best so far was kept" in stopped["foot"] and stopped["lines"][0]["points"][-1][0] == 1


@pytest.mark.parametrize(
    "end",
    [
        progress(3, student=None, control=None, cancelled=True),
        SimpleNamespace(step=0, steps=9, seconds=0.0, samples_per_second=0.0, cancelled=True, accuracy=0.5, loss=1.0),
    ],
    ids=["distillation", "fine-tuning"],
)
def test_of_a_training_that_was_stopped_before_it_learned_nothing_is_said_to_be_kept(end):
    curve = (end,)
    [said] = [text for text in said_of(curve, training=False, noun="images") if "stopped" in text]
    assert said == "stopped before anything was learned"


def test_long_curves_are_thinned_but_keep_their_end():
    view = curves_view([progress(k, 5000, student=k / 5000) for k in range(5001)], None, training=False, applied=True)
    points = view["lines"][0]["points"]
    assert len(points) <= MOST_POINTS + 1 and points[-1][0] > 0.999 and points[0][0] < 0.001


@pytest.mark.parametrize(
    ("won", "lost", "tone", "text"),
    [
        (1400, 470, "gain", "The teacher helps: +9.30 points (+8."),
        (470, 1400, "loss", "The teacher hurts here: −9.30 points (−"),
        (50, 48, "faint", "No distinguishable benefit: +0.02 points (−"),
    ],
)
def test_the_verdict_is_told_with_its_interval(won, lost, tone, text):
    told = curves_view((), compared(won, lost), training=False, applied=True)["verdict"]
    assert told[0]["tone"] == tone
    assert "".join(piece["text"] for piece in told).startswith(text)
    assert curves_view((), compared(won, lost), training=True, applied=True)["verdict"] == []
    tuning = curves_view((), compared(won, lost), training=False, applied=True, lesson="finetuning")
    assert tuning["verdict"] == []  # it was about the student before


def test_several_seeds_say_more_than_one():
    study = SeedStudy(Distillation(), (0, 1, 2))
    assert curves_view((), None, training=True, applied=False, study=study)["verdict"] == []
    for known in (1, 3):
        study = SeedStudy(
            Distillation(), (0, 1, 2), (compared(900, 600), compared(800, 620), compared(850, 610))[:known]
        )
        told = "".join(p["text"] for p in curves_view((), None, training=True, applied=False, study=study)["verdict"])
        assert told.startswith(study.verdict[0].upper() + study.verdict[1:])
        assert ("over 3 seeds" in told) == (known == 3)


def test_the_foot_says_which_seed_it_is_and_that_it_holds():
    curve = [progress(50, seconds_left=5.0)]
    running = curves_view(curve, None, training=True, applied=False, lap=Lap(1, 3, 0))
    assert running["foot"].startswith("seed 1 of 3 · step 50 of 100 · ")
    assert "25\u202fs left" in running["foot"]
    held = curves_view(curve, None, training=True, applied=False, paused=True)
    assert (held["foot"], held["paused"]) == ("step 50 of 100 · paused", True)
    resumed = curves_view([progress(50, resumed=True)], None, training=True, applied=False)
    assert "resumed from step 50" in resumed["foot"]


def test_parts_of_the_loss_are_lines_of_one_scale():
    parts = [{"teacher": 4.0 / k, "labels": 1.0 / k, "hidden layers": math.nan} for k in range(1, 6)]
    curve = [progress(10 * (k + 1), parts=part, loss=2.0) for k, part in enumerate(parts)]
    lines = {line["name"]: line for line in curves_view(curve, None, training=True, applied=False)["losses"]}
    assert set(lines) == {"teacher", "labels"}
    assert [y for _, y in lines["teacher"]["points"]] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5], abs=1e-4)
    assert lines["labels"]["points"][0][1] == 0.25
    assert lines["labels"]["text"] == "labels 0.200"
    [whole] = curves_view([progress(9, parts={"teacher": 2.0}, loss=2.0)], None, training=True, applied=False)["losses"]
    assert whole["name"] == "loss"


def test_an_estimate_that_is_told_again_is_one_point_and_the_untrained_one_none():
    curve = [progress(k, student=0.5 + k // 10 / 100 if k >= 10 else 0.1) for k in range(31)]
    points = curves_view(curve, None, training=True, applied=False)["lines"][0]["points"]
    assert [round(100 * x) for x, *_ in points] == [10, 20, 30]
    begun = [progress(k, student=0.5 + k // 10 / 100) for k in range(31)]  # with the model's weights, say
    assert len(curves_view(begun, None, training=True, applied=False)["lines"][0]["points"]) == 4


def tuned(step, accuracy=0.8, loss=1.0, **more):
    share = None if accuracy is None else statistics.proportion(round(2000 * accuracy), 2000, "measured")
    usual = {"epoch": 1, "epochs": 4, "note": "", "cancelled": False}
    values = {"step": step, "steps": 100, "seconds": step / 10, "samples_per_second": 900.0, "loss": loss}
    return SimpleNamespace(accuracy=share, **(usual | values | more))


def test_a_fine_tuning_is_one_line_from_where_it_began_and_its_loss():
    curve = [tuned(step, 0.7 + step / 1000, 1 / (1 + step)) for step in range(0, 51, 10)]
    view = curves_view(curve, None, training=True, applied=False, lesson="finetuning")
    [line] = view["lines"]
    assert line["text"] == "fine-tuned"
    assert [point[0] for point in line["points"]] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    [loss] = view["losses"]
    losses = [value for _, value in loss["points"]]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == 1.0
    assert loss["text"] == "loss 0.0196"
    assert "1 of 4 epochs" in view["foot"]
    assert view["remark"][0]["text"] == "held-out 75.00\u202f%"


def test_a_fine_tuning_that_goes_on_says_where():
    curve = [tuned(50, epoch=2, resumed=True), tuned(80, epoch=3, resumed=True)]
    view = curves_view(curve, None, training=True, applied=False, lesson="finetuning")
    assert view["foot"].endswith("resumed from epoch 2")
    told = curves_view([tuned(60, note="A sentence.")], None, training=True, applied=False, lesson="finetuning")
    assert told["foot"].endswith("A sentence.")


def test_a_fine_tuning_without_a_curve_is_a_sentence():
    def quiet(training=False, applied=False, curve=()):
        return curves_view(curve, None, training=training, applied=applied, lesson="finetuning")["quiet"]

    assert quiet().startswith("Fine-tune the network")
    assert "put on its grids" in quiet(training=True, curve=[tuned(0, None)])
    assert "fine-tuned before" in quiet(applied=True)
    infinite = curves_view([tuned(5, loss=float("nan"))], None, training=True, applied=False, lesson="finetuning")
    assert infinite["losses"] == []
