"""A narrower student that begins with the model's values: which ones, and where they go."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError
from workbench.distillation.students.width import narrow


class Mixed(nn.Module):
    """Additions, a concatenation, a gate, groups, a depthwise layer, and a flatten, with every second channel dead.

    A dead channel is 0 whatever comes, and so is what the layers behind make of it: a student that has lost exactly
    these channels computes what the model computes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.same = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.wise = nn.Conv2d(12, 24, 3, stride=2, padding=1, groups=12)
        self.norm = nn.BatchNorm2d(24)
        self.squeeze, self.excite = nn.Linear(24, 6), nn.Linear(6, 6)
        self.last = nn.Conv2d(24, 6, 1, bias=False)
        self.activation = nn.PReLU(6)
        self.hidden, self.head = nn.Linear(6 * 36, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.same(x), inplace=True)
        x = torch.cat((F.interpolate(x, scale_factor=2.0), self.up(x).relu()), 1)
        x = self.norm(self.wise(x))
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        x = self.activation(self.last(x) * gate[:, :, None, None])
        return self.head(self.hidden(x.flatten(1)).relu())


def deadened(model: Mixed, dead: int) -> Mixed:
    """Every second filter is 0, beginning with `dead`; `gate` layers only where a channel that is multiplied is."""
    with torch.no_grad():
        for name in ("stem", "same", "up", "squeeze", "last", "hidden", "excite"):
            module = model.get_submodule(name)
            weight = module.weight.transpose(0, 1) if name == "up" else module.weight
            weight[dead::2] = 0
            if module.bias is not None:
                module.bias[dead::2] = 0
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        for channel in (0, 1):  # two outputs of each depthwise channel
            lost = slice(2 * dead + channel, None, 4)
            for tensor in (model.wise.bias, model.norm.bias, model.norm.running_mean):
                tensor[lost] = 0
    return model.eval()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([0, 1]))
def test_a_student_without_the_dead_channels_computes_what_the_model_computes(seed: int, dead: int) -> None:
    torch.manual_seed(seed)
    model, example = deadened(Mixed(), dead), torch.randn(2, 3, 6, 6)
    reduced = narrow(model, example, 0.5, 0, initial="model")
    assert reduced.fresh == ()
    assert reduced.module.get_submodule("stem").weight.shape == (4, 3, 3, 3)
    torch.testing.assert_close(reduced.module(example), model(example))


def test_the_filters_of_the_largest_norm_are_kept_and_layers_that_meet_agree() -> None:
    class Meeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = (nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x) + self.b(x))

    model = Meeting()
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([[4.0], [3.0], [0.0], [1.0]]).expand(4, 3))
        model.b.weight.copy_(torch.tensor([[0.0], [0.0], [30.0], [10.0]]).expand(4, 3))
    student = narrow(model, torch.randn(2, 3), 0.5, 0, initial="model").module
    for name in ("a", "b"):  # shares: 0.5 + 0, 0.375 + 0, 0 + 0.75, 0.125 + 0.25
        assert torch.equal(student.get_submodule(name).weight, model.get_submodule(name).weight[[0, 2]])
    assert torch.equal(student.get_submodule("out").weight, model.out.weight[:, [0, 2]])
    assert torch.equal(student.get_submodule("out").bias, model.out.bias)


def test_what_cannot_be_followed_begins_anew_and_is_said() -> None:
    class Softmax(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x).softmax(1)))

    model, example = Softmax(), torch.randn(2, 5)
    reduced = narrow(model, example, 0.5, 0, initial="model")
    fresh = narrow(model, example, 0.5, 0).module
    assert reduced.fresh == ("b",)  # each of its inputs depends on all channels
    assert torch.equal(reduced.module.get_submodule("b").weight, fresh.get_submodule("b").weight)
    assert not torch.equal(reduced.module.get_submodule("a").weight, fresh.get_submodule("a").weight)
    assert not torch.equal(reduced.module.get_submodule("c").weight, fresh.get_submodule("c").weight)


def widths(model: nn.Module, example: Tensor, layers: dict[str, float]) -> list[int]:
    student = narrow(model, example, 0.5, 0, layers).module
    return [m.out_features for m in student.modules() if isinstance(m, nn.Linear)]


def test_layers_can_have_widths_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    example = torch.randn(2, 3)
    assert widths(model, example, {}) == [4, 4, 4, 2]
    assert widths(model, example, {"1": 0.25}) == [4, 2, 4, 2]
    assert widths(model, example, {"*": 1.0, "[01]": 0.75, "0": 0.25}) == [2, 6, 8, 2]  # the most specific wins


def test_a_width_of_its_own_goes_to_the_layers_that_it_meets() -> None:
    model, example = Mixed(), torch.randn(2, 3, 6, 6)
    student = narrow(model, example, 0.5, 0, {"stem": 0.25}).module
    assert student.get_submodule("same").weight.shape[0] == 2
    assert student.get_submodule("last").weight.shape[0] == 3


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"stemm": 0.5}, "no layer 'stemm' can be made narrower.*'stem'"),
        ({"x*": 0.5}, "no layer 'x\\*'"),
        ({"head": 0.5}, "head keeps its width"),
        ({"stem": 0.5, "same": 0.25}, "stem and same meet.*0.5 and 0.25|same and stem meet.*0.25 and 0.5"),
        ({"stem": 0.0}, "above 0 and at most 1"),
    ],
    ids=["unknown", "wildcard", "output", "conflict", "zero"],
)
def test_widths_that_cannot_be_are_refused_by_name(layers: dict[str, float], words: str) -> None:
    with pytest.raises(WorkbenchError, match=words):
        narrow(Mixed(), torch.randn(2, 3, 6, 6), 0.5, 0, layers)
