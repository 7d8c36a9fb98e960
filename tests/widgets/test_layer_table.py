from __future__ import annotations

from widgets.layer_table import LayerTable
from workbench.recipe import Quantization, Recipe

COSTS = {"conv1": (-0.001, 0.0, 0.001), "fc1": (0.001, 0.002, 0.003), "fc2": (0.0002, 0.0005, 0.0009)}
W4 = Recipe(quantization=Quantization(weight_bits=4, activation_bits=8, layers={"fc2": {"weight_bits": 8}}))


def rows_of(view):
    return {row["name"]: row for row in view["rows"]}


def test_rows_show_bits_shares_and_costs(session, report):
    s = session(recipe=W4, report=report(W4, costs=COSTS))
    rows = rows_of(LayerTable(s).view)
    assert list(rows) == ["conv1", "fc1", "fc2"]
    assert [(r["weight_bits"], r["activation_bits"], r["own"]) for r in rows.values()] == [
        (4, 8, False),
        (4, 8, False),
        (8, 8, True),
    ]
    assert abs(sum(r["share"] for r in rows.values()) - 1) < 1e-3
    assert rows["fc1"]["what"] == "Linear 8×64" and rows["fc1"]["count"] == "520"
    assert (rows["fc1"]["cost_text"], rows["fc1"]["cost_share"], rows["fc1"]["certain"]) == ("0.20", 1.0, True)
    assert rows["fc2"]["cost_share"] == 0.25
    assert not rows["conv1"]["certain"] and "not distinguishable" in rows["conv1"]["cost_title"]
    assert "(0.10 … 0.30)" in rows["fc1"]["cost_title"]


def test_bits_follow_the_recipe_before_anything_is_measured(session):
    s = session(recipe=W4)
    view = LayerTable(s).view
    assert [row["weight_bits"] for row in view["rows"]] == [4, 4, 8]
    assert {row["cost_text"] for row in view["rows"]} == {""} and not view["sorted_by_cost"] and view["changed"]


def test_a_cost_stays_greyed_until_it_is_measured_anew(session, report):
    s = session(recipe=W4, report=report(W4, costs=COSTS))
    part = LayerTable(s)
    assert all(row["fresh"] for row in part.view["rows"])
    s.report = report(W4, costs={"fc1": (0.003, 0.004, 0.005)}, evaluated=1_000, lost=10, gained=5)
    rows = rows_of(part.draw())
    assert (rows["fc1"]["cost_text"], rows["fc1"]["fresh"]) == ("0.40", True)
    assert (rows["fc2"]["cost_text"], rows["fc2"]["fresh"]) == ("0.05", False)


def test_a_layer_in_floating_point_costs_nothing(session, report):
    s = session(recipe=W4, report=report(W4, costs=COSTS))
    part = LayerTable(s)
    s.recipe = Recipe()
    s.report = report(Recipe(), lost=0, gained=0)
    assert {row["cost_text"] for row in part.draw()["rows"]} == {""}


def test_several_rows_are_set_in_one_step(session, send):
    s = session(recipe=W4)
    part = LayerTable(s)
    send(part, {"do": "set", "names": ["conv1", "fc1"], "weight_bits": 3})
    assert [s.recipe.quantization.bits_for(name)[0] for name in ("conv1", "fc1", "fc2")] == [3, 3, 8]
    send(part, {"do": "set", "names": ["conv1"], "activation_bits": None})
    assert s.recipe.quantization.bits_for("conv1")[1] is None
    send(part, {"do": "reset", "names": ["fc2"]})
    assert s.calls == [("clear_layers", ["fc2"])]


def test_the_layers_of_a_student_are_shown_as_they_are(session, report):
    small = report(W4)
    rows = tuple(row.model_copy(update={"shape": (2, 2), "parameters": 6}) for row in small.layers)
    s = session(recipe=W4, report=small.model_copy(update={"layers": rows}))
    assert {(row["what"].split()[1], row["count"]) for row in LayerTable(s).view["rows"]} == {("2×2", "6")}
