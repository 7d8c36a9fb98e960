from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from contest import mixing
from contest.results import Difference, Kept, Result, difference
from contest.table import Table, Target


def drawn(share: float, seed: int, n: int = 4000) -> Result:
    return Result((np.random.default_rng(seed).random(n) < share).tolist(), 1.0)


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.floats(0, 1e4))
def test_what_is_kept_comes_back_and_is_not_made_twice(tmp_path_factory, hits, seconds):
    file = tmp_path_factory.mktemp("kept") / "results.json"
    Kept(file).made("ours", lambda: Result(hits, seconds, "a note"))
    again = Kept(file).made("ours", lambda: pytest.fail("made again"))
    assert again == Result(hits, seconds, "a note")


def test_a_refusal_is_kept_as_well(tmp_path):
    Kept(tmp_path / "r.json").made("peer", lambda: Result(None, 0.0, "failed"))
    assert Kept(tmp_path / "r.json").made("peer", lambda: pytest.fail("made again")) == Result(None, 0.0, "failed")


def test_the_difference_is_that_of_the_shares_and_turns_with_its_sides():
    ours, theirs = [drawn(0.9, 1), drawn(0.9, 2)], [drawn(0.8, 3), drawn(0.8, 4)]
    there, back = difference(ours, theirs), difference(theirs, ours)
    shares = [np.mean([np.mean(result.hits) for result in results]) for results in (ours, theirs)]
    assert there.points == pytest.approx(100 * (shares[0] - shares[1]))
    assert (there.verdict, back.verdict) == ("ahead", "behind")
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_equal_methods_are_told_apart_in_one_of_twenty_comparisons():
    verdicts = [difference([drawn(0.9, 2 * s)], [drawn(0.9, 2 * s + 1)]).verdict for s in range(400)]
    assert 0.02 < np.mean([verdict != "not distinguishable" for verdict in verdicts]) < 0.09


def test_copies_of_an_example_say_no_more_than_the_example():
    ours, theirs = drawn(0.9, 1, 20), drawn(0.5, 2, 20)
    copies = [Result([hit for hit in result.hits for _ in range(12)], 1.0) for result in (ours, theirs)]
    groups = torch.arange(20).repeat_interleave(12)
    alone, grouped = difference([ours], [theirs]), difference([copies[0]], [copies[1]], groups)
    assert grouped == pytest.approx(alone)


def test_the_table_judges_against_the_best_peer_and_the_target(capsys):
    table = Table("title", ["W4A8"], drawn(0.9, 0).hits, ["ours"], targets=[Target(-50, 5)])
    table.add("ours", "W4A8", drawn(0.7, 1), peer=False)
    table.add("weak", "W4A8", drawn(0.2, 2), peer=True)
    table.add("strong", "W4A8", drawn(0.9, 3), peer=True)
    table.add("absent", "W4A8", Result(None, 0.0, "cannot be imported"), peer=True)
    table.print()
    printed = capsys.readouterr().out
    verdict = next(line for line in printed.splitlines() if line.startswith("W4A8, ours (ours)"))
    assert "against strong" in verdict and "behind" in verdict
    assert "NOT within its interval of best" in verdict
    assert "target reached" in verdict and ", in time" in verdict
    assert next(line for line in printed.splitlines() if line.startswith("absent")).split()[1] == "-"


@pytest.mark.parametrize(
    ("found", "standing"),
    [
        (Difference(0.2, -0.1, 0.5), "best"),
        (Difference(0.0, -0.1, 0.1), "best"),
        (Difference(-0.2, -0.5, 0.1), "within its interval of best"),
        (Difference(-0.5, -0.8, -0.2), "NOT within its interval of best"),
    ],
)
def test_a_row_is_held_against_the_best(found, standing):
    assert found.standing == standing


@pytest.mark.parametrize(
    ("average", "low", "met"), [(2.5, 0.1, True), (2.51, 0.1, False), (2.4, -0.1, False), (2.4, 0.1, True)]
)
def test_a_mix_meets_its_target_where_it_is_small_enough_and_ahead(average, low, met):
    planned = [Result([True], 1.0, f"{each:.2f} bits a weight, 9.0 kB of 9.1: fc 2") for each in (2.0, average)]
    said = mixing.verdict(planned, "uniform 3 bits", Difference(0.3, low, 0.7))
    assert (": met" in said) == met
    assert (": NOT met" in said) != met


def test_a_mix_is_held_against_the_best_peer_of_the_table_before(tmp_path):
    kept = Kept(tmp_path / "kept.json")
    assert mixing.best_peer(kept, 1) is None
    names = list(mixing.brevitas_methods.METHODS)[:3]
    for name, right in zip(names, (2, 3, 1), strict=True):
        kept.made(f"post-training | {name} | W3A8 | sample 1", lambda r=right: Result([k < r for k in range(4)], 1.0))
    assert mixing.best_peer(kept, 2) is None  # none has both samples
    name, results = mixing.best_peer(kept, 1)
    assert (name, sum(results[0].hits)) == (names[1], 3)
