from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from workbench import TaskError
from workbench.outputs import selected

A, B = torch.zeros(2, 3), torch.ones(2, 4)
Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Part:
    hidden: Any
    logits: Any


@pytest.mark.parametrize(
    ("output", "which", "expected"),
    [
        (A, None, A),
        ((A, B), None, A),
        ((None, B), None, B),
        ([A, B], 1, B),
        ((A, B), "1", B),
        ({"hidden": A, "logits": B}, None, B),
        (OrderedDict(loss=A, out=B), None, B),
        ({"hidden": A, "state": B}, None, A),
        ({"hidden": A, "logits": B}, "hidden", A),
        ({0: A, 1: B}, 1, B),
        (Part(A, B), None, B),
        (Part(A, B), "hidden", A),
        (Pair(A, B), "second", B),
        (Pair(A, B), 0, A),
        (Pair(A, B), None, A),
        ({"hidden": {"deep": B}}, lambda output: output["hidden"]["deep"], B),
        (torch.max(torch.eye(3), 1), None, torch.ones(3)),
    ],
)
def test_the_part_that_counts(output: Any, which: Any, expected: torch.Tensor) -> None:
    assert torch.equal(selected(output, which), expected)


@pytest.mark.parametrize(
    ("output", "which", "words"),
    [
        ({"hidden": A, "logits": B}, "logit", "output = 'logit': .* no such part. Did you mean 'logits'"),
        ((A, B), 2, "output = 2: .* Known: 0, 1"),
        (A, "logits", "output = 'logits': .* There are none"),
        ({"a": "text"}, None, "returned a dict without a tensor"),
        (None, None, "returned a NoneType without a tensor"),
        ((A, None), 1, "returned a tuple without a tensor"),
        (A, lambda output: 3, "returned a Tensor without a tensor that could be measured; name the part"),
        (Part, None, "returned a type without a tensor"),
    ],
)
def test_a_part_that_is_not_there_is_named(output: Any, which: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        selected(output, which)
