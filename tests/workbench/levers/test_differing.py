"""Examples on which a student differs from its teacher, and by how much one recipe is better than another."""

from __future__ import annotations

import pytest
import torch
from lever_bench import SETTINGS, data, network

import workbench as wb
from workbench import Quantization, Recipe, RecipeError
from workbench.levers import teaching

STUDENT = Recipe(distillation=SETTINGS)
W2 = Recipe(quantization=Quantization(weight_bits=2))


def answers(module: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return module(data(400, 1)[0])


def test_the_examples_on_which_they_differ_are_named_the_surest_first(made: wb.Bench, monkeypatch) -> None:
    list(made.distil(SETTINGS))
    found = made.confusion(STUDENT)
    logits = answers(network(16))
    teacher = logits.argmax(1)
    assert len(found.differing) == sum(map(sum, found.counts)) - sum(row[i] for i, row in enumerate(found.counts)) > 0
    for each in found.differing:
        assert each.teacher == teacher[each.index] != each.student
        assert each.probability == pytest.approx(float(logits[each.index].softmax(0).max()), abs=1e-5)
    sure = [each.probability for each in found.differing]
    assert sure == sorted(sure, reverse=True)
    for row, line in enumerate(found.counts):
        for column, n in enumerate(line):
            if row != column:
                assert n == sum((each.teacher, each.student) == (row, column) for each in found.differing)
    monkeypatch.setattr(teaching, "LISTED", 3)
    assert made.confusion(STUDENT).differing == found.differing[:3]


def test_the_difference_of_two_recipes_is_paired_over_the_same_examples(made: wb.Bench) -> None:
    one, other = made.measure(Recipe()), made.measure(W2)
    gap = made.difference(Recipe(), W2)
    assert gap.value == pytest.approx(one.accuracy.value - other.accuracy.value, abs=1e-9)
    assert (gap.low, gap.high) == pytest.approx((other.drop.low, other.drop.high))  # fp32 is what a drop is against
    back = made.difference(W2, Recipe())
    assert (back.value, back.low, back.high) == pytest.approx((-gap.value, -gap.high, -gap.low))
    assert made.difference(W2, W2).value == 0
    assert (gap.source, made.difference(Recipe(), Recipe()).source) == ("simulated", "measured")


def test_what_cannot_be_measured_cannot_be_compared(made: wb.Bench) -> None:
    with pytest.raises(RecipeError, match="no layer"):
        made.difference(Recipe(), Recipe(quantization=Quantization(layers={"nine": {"weight_bits": 4}})))
