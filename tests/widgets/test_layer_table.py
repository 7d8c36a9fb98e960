from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import pytest

from widgets.layer_table import LayerTable, layers_view
from widgets.session import Session
from workbench.errors import Cancelled
from workbench.recipe import Quantization, Recipe
from workbench.report import Estimate, LayerRow

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


class Layer(NamedTuple):
    name: str
    kind: str = "Linear"
    shape: tuple[int, ...] = (4, 4)
    parameters: int = 20
    weights: str = ""
    activations: str = ""


class Alone(NamedTuple):
    name: str
    kind: str
    reason: str


BLOCKS = tuple(Layer(f"encoder.{block}.{name}") for block in range(8) for name in ("query", "key"))
TABLE = Layer("words", "Embedding", (100, 4), 400, activations="a table lookup has no activations")


def measured(layers, costs):
    estimates = {
        name: Estimate(low=c[0], value=c[1], high=c[2], unit="", source="simulated") for name, c in costs.items()
    }
    return {
        layer.name: LayerRow(
            name=layer.name,
            kind=layer.kind,
            shape=layer.shape,
            parameters=layer.parameters,
            weight_bits=4,
            activation_bits=8,
            bytes=10,
            sqnr=20.0 + at,
            cost=estimates.get(layer.name),
        )
        for at, layer in enumerate(layers)
    }


def test_repeated_blocks_are_added_up():
    costs = {f"encoder.{block}.query": (-0.001, 0.001, 0.002) for block in range(7)} | {"words": (0.001, 0.002, 0.003)}
    view = layers_view((TABLE, *BLOCKS), W4.quantization, measured(BLOCKS, costs), frozenset(costs))
    query, key = view["groups"]
    assert (query["name"], key["name"]) == ("encoder.[0-7].query", "encoder.[0-7].key")
    assert query["names"] == [f"encoder.{block}.query" for block in range(8)]
    assert (query["what"], query["count"], query["order"]) == ("Linear 4×4", "160", 1)
    assert query["share"] == pytest.approx(160 / 720, abs=1e-4)
    assert "80" in query["share_title"]
    assert query["sqnr"] == "≥ 20.0"
    assert (query["cost_text"], query["cost_share"], query["certain"]) == ("0.70", 1.0, False)
    assert "0.70 points (−0.70 … 1.40)" in query["cost_title"]
    assert "7 of the 8 layers" in query["cost_title"] and "not distinguishable" in query["cost_title"]
    assert (key["cost"], key["cost_text"], key["cost_title"]) == (None, "", "")
    rows = rows_of(view)
    assert rows["encoder.3.query"]["group"] == "encoder.[0-7].query" and rows["words"]["group"] == ""
    assert rows["encoder.3.query"]["cost_share"] == pytest.approx(1 / 7, abs=1e-4)


def test_a_group_is_greyed_while_one_of_its_costs_is_old_and_stands_out_when_a_layer_does():
    costs = {layer.name: (0.001, 0.002, 0.003) for layer in BLOCKS}
    own = Quantization(weight_bits=4, layers={"encoder.2.key": {"weight_bits": 8}})
    query, key = layers_view(BLOCKS, own, measured(BLOCKS, costs), frozenset(costs) - {"encoder.5.query"})["groups"]
    assert (query["fresh"], key["fresh"]) == (False, True)
    assert (query["own"], key["own"]) == (False, True)
    assert query["certain"]


@pytest.mark.parametrize(("number", "groups"), [(12, 0), (13, 1)])
def test_small_models_are_not_grouped(number, groups):
    layers = [Layer(f"blocks.{at}") for at in range(number)]
    assert len(layers_view(layers, Quantization(), {}, frozenset())["groups"]) == groups


def test_costs_can_be_in_another_unit():
    view = layers_view(
        BLOCKS[:1],
        W4.quantization,
        measured(BLOCKS[:1], {"encoder.0.query": (1.0, 2.0, 3.0)}),
        frozenset(),
        cost_head="Costs, MAE",
        write_cost=lambda value: f"{value:.1f}",
    )
    assert (view["cost_head"], view["rows"][0]["cost_text"]) == ("Costs, MAE", "2.0")
    assert view["rows"][0]["cost_title"].startswith("2.0 MAE (1.0 … 3.0)")


def test_what_is_left_alone_is_counted_and_listed():
    alone = [Alone(f"encoder.{at}.norm", "LayerNorm", "too few weights") for at in range(3)]
    alone.append(Alone("bn", "BatchNorm2d", "nothing to fold it into"))
    foot = layers_view(BLOCKS, Quantization(), {}, frozenset(), alone)["left_alone"]
    assert foot["text"] == "4 layers are left alone: LayerNorm (3), BatchNorm2d (1)"
    assert foot["rows"] == [
        {"name": "encoder.[0-2].norm", "why": "LayerNorm: too few weights"},
        {"name": "bn", "why": "BatchNorm2d: nothing to fold it into"},
    ]
    assert layers_view(BLOCKS, Quantization(), {}, frozenset(), alone[:1])["left_alone"]["text"].startswith(
        "1 layer is "
    )
    assert layers_view(BLOCKS, Quantization(), {}, frozenset())["left_alone"] == {"text": "", "rows": []}


def test_layers_that_cannot_be_set_say_why_and_do_not_keep_the_others_from_it(session, send):
    layers = (TABLE, Layer("conv1"), Layer("fc1"))
    s = session(recipe=W4)
    s.bench = SimpleNamespace(layers=layers)
    part = LayerTable(s)
    rows = rows_of(part.view)
    assert rows["words"]["why"] == {"activation_bits": "a table lookup has no activations"} and rows["fc1"]["why"] == {}

    send(part, {"do": "set", "names": ["words", "conv1", "fc1"], "activation_bits": 4})
    assert list(s.recipe.quantization.layers) == ["conv1", "fc1", "fc2"] and s.problem == ""  # fc2 was set apart before

    before = s.recipe
    send(part, {"do": "set", "names": ["words"], "activation_bits": 4})
    assert "words stays in fp32: a table lookup has no activations." in s.problem
    assert s.recipe == before


def test_a_group_is_one_step_of_the_history(send):
    class Bench:
        name, description, layers, training_images = "encoder", "", BLOCKS, 0
        runtimes = devices = teachers = frontier_reports = lambda self: ()
        check = lambda self, recipe: None  # noqa: E731
        known = lambda self, recipe: None  # noqa: E731

        def follow(self, recipe, cancel):
            raise Cancelled

    session = Session(Bench(), recipe=W4)
    part = LayerTable(session)
    names = part.view["groups"][0]["names"]
    send(part, {"do": "set", "names": names, "weight_bits": 2})
    assert {session.recipe.quantization.bits_for(name)[0] for name in names} == {2}
    session.undo()
    assert session.recipe == W4
    session.redo()
    send(part, {"do": "reset", "names": names})
    assert not set(session.recipe.quantization.layers) & set(names)
    session.undo()
    assert set(names) <= set(session.recipe.quantization.layers)
    session.close()
