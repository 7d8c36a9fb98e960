from __future__ import annotations

from dataclasses import replace

import pytest

from widgets.layer_table import LayerTable
from widgets.plan_panel import STEPS, plan_view
from widgets.planning import Obstacle, Outlook, Proposal
from widgets.tradeoff import TradeOff, tradeoff_view
from workbench.planning.plan import Budget, Exchange, Plan, Reason
from workbench.recipe import Quantization, Recipe
from workbench.report import Estimate

TEMPLATE = Recipe(quantization=Quantization(activation_bits=8))


def mix(bits, **layers):
    layers = {name: {"weight_bits": own} for name, own in layers.items()}
    return Recipe(quantization=Quantization(weight_bits=bits, activation_bits=8, layers=layers))


@pytest.fixture
def ahead(report):
    """A predicted frontier: 2 bits lose 10 points, 8 bits a hundredth."""

    def predicted(recipe, size, drop):
        half = 0.004
        drops = Estimate(value=drop, low=drop - half, high=drop + half, unit="", source="predicted")
        at = 0.9186 - drop
        accuracy = Estimate(value=at, low=at - half, high=at + half, unit="", source="predicted")
        changes = {"evaluated": 0, "drop": drops, "accuracy": accuracy, "latency": None}
        return report(recipe, size=size).model_copy(update=changes)

    return Outlook(
        TEMPLATE,
        (
            predicted(mix(2), 25_000.0, 0.1),
            predicted(mix(3), 38_000.0, 0.02),
            predicted(mix(3, fc1=6), 45_000.0, 0.005),
            predicted(mix(8), 95_000.0, 0.0001),
        ),
        1,
        0.2,
    )


@pytest.fixture
def proposal(ahead):
    chosen = ahead.frontier[2]
    plan = Plan(
        budget=Budget(max_bytes=50_000),
        recipe=chosen.recipe,
        report=chosen,
        frontier=ahead.frontier,
        reasons=(
            Reason(
                layer="fc1", weight_bits=6, activation_bits=8, share=0.1, lower_bits=4, lower_share=0.41, saved=9e3,
                text="fc1 stays at 6",
            ),
            Reason(layer="fc2", weight_bits=3, activation_bits=8, share=0.5, text="fc2 goes down to 3"),
        ),
        exchanges=(
            Exchange(bytes=900.0, drop=-0.0012, recipe=mix(8), text="1.0 kB more would win back 0.12 points."),
            Exchange(bytes=-4100.0, drop=0.001, recipe=mix(2), text="0.10 points more to lose would save 4.1 kB."),
        ),
    )  # fmt: skip
    return Proposal(TEMPLATE, "size", 50_000.0, chosen, plan, settled=True)


@pytest.fixture
def tried(report):
    return (report(Recipe(), lost=0, gained=0, size=373_000.0), report(mix(4), size=48_900.0))


def test_a_budget_goes_from_the_smallest_plan_to_the_largest_and_starts_where_one_is(ahead, tried):
    by_size, by_loss = plan_view(ahead, None, tried[1])["budgets"]
    assert (by_size["values"][0], by_size["values"][-1]) == (25_000, 95_000) and len(by_size["values"]) == STEPS + 1
    assert by_size["values"] == sorted(by_size["values"])
    assert (by_size["unit"], by_size["texts"][0], by_size["spoken"][-1]) == ("kB", "25.0", "95.0 kB")
    assert abs(by_size["value"] / 48_900 - 1) < 0.03
    assert (by_loss["unit"], by_loss["texts"][-1], by_loss["values"][-1]) == ("points", "10.00", 0.1)
    assert by_loss["values"][0] > 0


def test_a_proposal_says_what_it_costs_and_what_a_little_more_buys(ahead, proposal, tried):
    view = plan_view(ahead, proposal, tried[1])["proposal"]
    assert (view["origin"], view["size"]) == ("predicted", "45.0\u202fkB")
    assert "".join(part["text"] for part in view["loss"]) == "−0.50 points (−0.90 … −0.10)"
    assert view["exchanges"] == [
        "1.0 kB more would win back 0.12 points.",
        "0.10 points more to lose would save 4.1 kB.",
    ]
    busy = plan_view(ahead, proposal, tried[1], busy=True)["proposal"]
    assert not busy["can_improve"] and busy["why_not"]


def test_before_anything_is_known_it_says_how_far_the_learning_is_or_how_long_it_takes():
    view = plan_view(None, None, None, sensing=0.34)
    assert "34\u202f%" in view["learning"] and view["budgets"] == [] and view["proposal"] is None
    assert plan_view(None, None, None, takes=500.0)["takes"] == "about 8 min"
    assert plan_view(None, None, None, sensing=0.1, asked=True)["can_stop"]


def test_a_frontier_of_one_mix_has_no_budget(ahead):
    view = plan_view(ahead._replace(frontier=ahead.frontier[:1]), None, None)
    assert view["budgets"] == [] and view["alone"].startswith("W2 A8 is predicted to be best")


def test_the_plot_shows_frontier_budget_and_proposal_and_the_axes_stand_still(ahead, proposal, tried):
    shown = tradeoff_view(tried, tried[1], tried[0], outlook=ahead, proposal=proposal)
    point = next(each for each in shown["points"] if each["proposed"])
    assert (point["label"], point["origin"], point["tried"], point["growing"]) == (
        "proposal",
        "predicted",
        False,
        False,
    )
    by_size, by_latency = shown["axes"]
    assert by_size["places"][point["key"]]["x"] < by_size["budget"] and by_latency["budget"] is None
    assert point["key"] not in by_latency["places"]
    assert len(by_size["ahead"]) >= 3 and by_latency["ahead"] == []
    assert by_size["ahead"] == sorted(by_size["ahead"])
    bare = tradeoff_view(tried, tried[1], tried[0], outlook=ahead)
    assert (bare["ticks"], bare["axes"][0]["ticks"]) == (shown["ticks"], by_size["ticks"])
    loss = Proposal(TEMPLATE, "loss", 0.01, ahead.frontier[2])
    assert 0 < tradeoff_view(tried, tried[1], tried[0], outlook=ahead, proposal=loss)["budget"] < 1


def test_a_predicted_point_is_now_until_the_measured_one_takes_its_place(ahead, tried, report):
    foreseen = ahead.frontier[1]
    view = tradeoff_view(tried, tried[1], tried[0], stale=True, prediction=foreseen)
    [now] = [point for point in view["points"] if point["now"]]
    assert (now["key"], now["origin"], now["tried"]) == (foreseen.recipe.key, "predicted", False)
    growing = report(foreseen.recipe, evaluated=1_000)
    [now] = [p for p in tradeoff_view(tried, growing, tried[0], prediction=foreseen)["points"] if p["now"]]
    assert (now["key"], now["origin"], now["tried"], now["growing"]) == (foreseen.recipe.key, "simulated", True, True)


def test_the_layer_table_shows_proposed_bits_with_reasons_and_edits_them(session, send, proposal):
    s = session(recipe=mix(4), proposal=proposal)
    part = LayerTable(s)
    rows = {row["name"]: row for row in part.view["rows"]}
    assert part.view["proposing"]
    assert (rows["fc1"]["weight_bits"], rows["fc1"]["proposed"]["weight_bits"]) == (4, 6)
    assert rows["fc1"]["reason"] == "10\u202f% of the expected loss; 41\u202f% at 4 bits, to save 9.00\u202fkB"
    assert rows["fc2"]["reason"] == "50\u202f% of the expected loss" and rows["conv1"]["reason"] == ""
    send(part, {"do": "set", "names": ["fc1"], "weight_bits": 8})
    assert s.calls == [("edit_proposal", ["fc1"], {"weight_bits": 8})] and s.recipe == mix(4)
    s.proposal = None
    part.refresh()
    assert not part.view["proposing"] and "proposed" not in part.view["rows"][0]


def test_what_the_browser_asks_for_is_checked(session, send, ahead):
    s = session(outlook=ahead)
    part = TradeOff(s)
    send(part, {"do": "propose", "max_bytes": 40_000})
    assert s.calls == [("propose", {"max_bytes": 40_000.0})]
    for nonsense in ({"max_bytes": "many"}, {"max_bytes": None}, {"max_drop": [1]}, {"bits": 3}, {}):
        s.problem = ""
        send(part, {"do": "propose", **nonsense})
        assert s.problem
    for name in ("take", "improve", "stop_improving", "discard", "learn", "stop_learning"):
        send(part, {"do": name})
    assert [call[0] for call in s.calls[1:]] == [
        "take_proposal", "improve_proposal", "stop_improving", "discard_proposal", "learn", "stop_learning",
    ]  # fmt: skip


def test_what_keeps_bits_from_being_planned_is_said_with_a_way_out():
    instead = mix(4).replace(quantization=mix(4).quantization.replace(method="quantease"))
    view = plan_view(None, None, None, obstacle=Obstacle("BRECQ makes layers depend on each other.", instead))
    assert view["obstacle"]["reason"] == "BRECQ makes layers depend on each other."
    assert view["obstacle"]["instead"] == "Plan with QuantEase"
    assert plan_view(None, None, None, obstacle=Obstacle("Why.", None))["obstacle"]["instead"] == ""
    assert plan_view(None, None, None)["obstacle"] is None


def test_a_latency_is_shown_where_it_was_asked_for(ahead, proposal, tried):
    latency = Estimate(value=31e-6, low=30e-6, high=32e-6, unit="s", source="predicted")
    timed = replace(proposal, report=proposal.report.model_copy(update={"latency": latency}), max_latency=1e-3)
    assert plan_view(ahead, timed, tried[1])["proposal"]["latency"] == "31.0\u202fµs a call"
    assert plan_view(ahead, proposal, tried[1])["proposal"]["latency"] == ""
