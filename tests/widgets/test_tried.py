from __future__ import annotations

import csv
import io

import pytest

from widgets.distilling import Pair
from widgets.tried import Tried, as_csv, tried_view
from workbench import statistics
from workbench.recipe import Distillation, Quantization, Recipe
from workbench.report import Comparison, Estimate

W4 = Recipe(quantization=Quantization(weight_bits=4))


def test_the_latest_is_on_top_and_the_current_is_marked(report):
    view = tried_view((report(Recipe(), lost=0, gained=0, latency=None), report(W4, lost=127, gained=83)), W4)
    top, foot = view["rows"]
    shown = [top[name] for name in ("name", "accuracy", "drop", "kilobytes", "milliseconds", "flips", "now")]
    assert shown == ["W4", "91.42", "−0.44", "48.9", "0.0320", "210", True]
    assert (foot["name"], foot["drop"], foot["milliseconds"], foot["now"]) == ("fp32", "", "–", False)
    assert view["remark"] == "2 recipes"


def distilled(report, width, won, lost):
    recipe = Recipe(distillation=Distillation(width=width))
    share = statistics.proportion(8_000, 10_000, "measured")
    difference = statistics.paired_difference(won, lost, 10_000, "measured")
    comparison = Comparison(
        student=share, control=share, difference=difference, teacher=share, parameters=1, steps=1, seconds=12.5
    )
    return report(recipe).model_copy(update={"distillation": comparison})


def test_students_have_a_table_of_their_own(session, report, send):
    half, quarter = distilled(report, 0.5, 1_400, 470), distilled(report, 0.25, 50, 48)
    s = session(tried=(report(Recipe(), lost=0, gained=0), report(W4), half, quarter), recipe=half.recipe)
    part = Tried(s)
    assert [tab["text"] for tab in part.view["tabs"]] == ["all", "students 2"]
    assert len(part.view["rows"]) == 4
    send(part, {"do": "show", "students": True})
    assert [column["name"] for column in part.view["columns"]] == ["student", "control", "difference", "seconds"]
    top, below = part.view["rows"]
    assert (top["name"], top["difference"], top["sure"]) == ("student ×0.25", "+0.02", False)
    assert (below["difference"], below["sure"], below["seconds"], below["now"]) == ("+9.30", True, "12.5", True)
    s.tried = s.tried[:2]
    view = part.draw()
    assert (view["tabs"], len(view["rows"])) == ([], 2)  # of another model there may be none


@pytest.mark.parametrize(
    ("low", "high", "tone", "said"),
    [
        (0.01, 0.02, "gain", "+1.50 points (+1.00 … +2.00), the same examples"),
        (-0.02, -0.01, "loss", "−1.50 points (−2.00 … −1.00), the same examples"),
        (-0.01, 0.01, "faint", "0.00 points (−1.00 … +1.00), the same examples: not distinguishable"),
    ],
)
def test_two_are_put_side_by_side(session, report, low, high, tone, said):
    one, other = report(W4), distilled(report, 0.5, 1_400, 470)
    gap = Estimate(value=(low + high) / 2, low=low, high=high, unit="", source="simulated")
    view = Tried(session(tried=(one, other), compared=Pair(one, other, gap))).view["pair"]
    assert (view["tone"], view["said"]) == (tone, said)
    rows = {row["name"]: (row["one"], row["other"]) for row in view["rows"]}
    assert rows["Student"] == ("–", "80.00\u202f%")
    assert rows["Difference"] == ("–", "+9.30 points")
    assert view["names"] == ["W4", "student ×0.5"]


def test_what_cannot_be_compared_says_why(session, report):
    pair = Pair(report(W4), report(Recipe()), None, "The teacher's file is gone.")
    view = Tried(session(tried=(report(W4),), compared=pair)).view["pair"]
    assert (view["said"], view["tone"]) == ("The teacher's file is gone.", "loss")


def test_rows_are_compared_and_deleted(session, report, send):
    s = session(tried=(report(Recipe()), report(W4)))
    part = Tried(s)
    send(part, {"do": "compare", "one": "a", "other": "b"})
    send(part, {"do": "apart"})
    send(part, {"do": "forget", "key": W4.key})
    assert s.calls == [("compare", "a", "b"), ("end_comparison",), ("forget", W4.key)]
    assert part.view["fixed"] == [Recipe().key, Recipe().key]


def test_the_code_makes_the_recipe_again(report):
    scope: dict = {}
    exec(tried_view((), W4)["code"], scope)  # noqa: S102
    assert scope["recipe"] == W4


def test_csv_reads_back(report):
    reports = (report(Recipe(), lost=0, gained=0, latency=None), report(W4))
    rows = list(csv.DictReader(io.StringIO(as_csv(reports))))
    assert [Recipe.from_json(row["recipe"]) for row in rows] == [Recipe(), W4]
    assert float(rows[1]["accuracy"]) == reports[1].accuracy.value and rows[0]["seconds"] == ""


def test_a_row_restores_its_recipe(session, report, send):
    done = report(W4)
    s = session(tried=(done,))
    send(Tried(s), {"do": "restore", "key": W4.key})
    assert s.calls == [("restore", W4.key)]


def test_the_file_of_the_recipe_goes_to_the_browser(session, send, monkeypatch):
    asked = []
    shown = session(recipe=W4)
    shown.export = lambda form, deliver: (asked.append(form), deliver("my-model.onnx", b"graph"))
    part = Tried(shown)
    sent = []
    monkeypatch.setattr(part, "send", lambda message, buffers: sent.append((message, buffers)))
    send(part, {"do": "export", "form": "onnx"})
    assert asked == ["onnx"] and sent == [({"file": "my-model.onnx"}, [b"graph"])]


def test_what_is_written_how_far_it_is_and_why_not(session):
    shown = session(recipe=W4, exporting="Reading it again: 512 of 10,000 compared")
    part = Tried(shown)
    view = part.view["export"]
    assert [form["value"] for form in view["forms"]] == ["safetensors", "onnx", "pt2", "openvino", "folder"]
    assert (view["working"], view["said"]) == ("Reading it again: 512 of 10,000 compared", "")
    shown.exporting, shown.export_problem = "", "model.pt2: a graph has no program. .onnx can be written."
    part.refresh()
    assert part.view["export"]["said"].endswith(".onnx can be written.") and part.view["export"]["tone"] == "loss"
