from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.distillation import feature_teaching, losses
from workbench.distillation.feature_teaching import FeatureTeaching
from workbench.distillation.layer_pairs import proposed, shapes
from workbench.errors import RecipeError, WorkbenchError
from workbench.recipe import Features

ROWS = torch.arange(6)
IMAGES = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def convolutional(width: int, padding: int = 0) -> nn.Module:
    """Names: conv1, relu1, pool, conv2, relu2, flatten, hidden, relu3, output."""
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(1, width, 3, padding=padding))
    net.add_module("relu1", nn.ReLU())
    net.add_module("pool", nn.MaxPool2d(2))
    net.add_module("conv2", nn.Conv2d(width, 2 * width, 3, padding=padding))
    net.add_module("relu2", nn.ReLU())
    net.add_module("flatten", nn.Flatten())
    side = (12 - 2 + 2 * padding) // 2 - 2 + 2 * padding
    net.add_module("hidden", nn.Linear(2 * width * side**2, 10))
    net.add_module("relu3", nn.ReLU())
    net.add_module("output", nn.Linear(10, 4))
    return net


class Tokens(nn.Module):
    """A sequence of tokens, whose channels come last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.act = nn.GELU()
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.act(self.embed(x))).mean(1))


def teaching(student: nn.Module, teacher: nn.Module, example: Tensor = IMAGES, **settings: Any) -> FeatureTeaching:
    return FeatureTeaching(Features(**settings), student, teacher, example, seed=0)


def test_hidden_layers_are_listed_in_their_order_without_the_output() -> None:
    net = convolutional(3).train()
    net.hidden.eval()
    found = shapes(net, IMAGES[:1])
    assert list(found) == ["conv1", "relu1", "pool", "conv2", "relu2", "flatten", "hidden", "relu3"]
    assert (found["conv1"], found["pool"], found["flatten"]) == ((3, 10, 10), (3, 5, 5), (54,))
    assert net.training
    assert not net.hidden.training
    assert not any(module._forward_hooks for module in net.modules())


def test_layers_that_are_called_twice_are_not_proposed() -> None:
    assert list(shapes(Tokens(5), torch.randn(1, 7, 3))) == ["embed"]


def test_stages_are_paired_by_the_nearest_grid() -> None:
    student, teacher = shapes(convolutional(2), IMAGES[:1]), shapes(convolutional(4, padding=1), IMAGES[:1])
    # 10x10, 5x5, 3x3 against 12x12, 6x6 and no third
    assert proposed("attention", student, teacher) == {"relu1": "relu1", "pool": "relu2"}
    assert proposed("hints", student, teacher) == {"pool": "relu2"}
    assert proposed("distance", student, teacher) == proposed("angle", student, teacher) == {"relu3": "relu3"}


def test_a_network_pairs_each_stage_with_itself() -> None:
    own = shapes(convolutional(2), IMAGES[:1])
    pairs = proposed("attention", own, own)
    assert pairs == {name: name for name in ("relu1", "pool", "relu2")}


def test_without_feature_maps_attention_says_so() -> None:
    flat = shapes(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.zeros(1, 3))
    assert proposed("hints", flat, flat) == {"1": "1"}
    with pytest.raises(WorkbenchError, match="'attention': the student has no hidden layer with positions"):
        proposed("attention", flat, flat)
    with pytest.raises(WorkbenchError, match="the teacher has no hidden layer to learn from"):
        proposed("hints", flat, {})


def unit(loss: str, teacher: Tensor) -> float:
    """What one is, in the loss's own numbers."""
    return {"hints": float(teacher.square().mean()), "attention": 1 / teacher[0, 0].numel()}.get(loss, 1.0)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "live"])
@pytest.mark.parametrize("loss", losses.FEATURE_LOSSES)
def test_the_value_is_the_losss_of_the_layers_that_were_named(
    loss: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_teaching, "KEPT_BYTES", 2**20 if kept else 0)
    student, teacher = convolutional(3), convolutional(3)
    learning = teaching(student, teacher, loss=loss, weight=2.0, pairs={"relu2": "relu2", "conv1": "conv1"})
    rows = torch.tensor([4, 0, 0, 5])
    student(IMAGES[rows])
    told = learning(IMAGES[rows], rows)
    expected = []
    for last in (1, 5):  # behind conv1, behind relu2
        ours, theirs = student[:last](IMAGES), teacher[:last](IMAGES).detach()
        found = losses.FEATURE_LOSSES[loss](ours[rows], theirs[rows])
        expected.append(found / unit(loss, theirs))
    torch.testing.assert_close(told, 2 * torch.stack(expected).mean(0))
    assert not list(learning.parameters())  # equally wide


@pytest.mark.parametrize("loss", losses.FEATURE_LOSSES)
def test_learning_brings_the_features_of_another_width_and_grid_nearer(loss: str) -> None:
    torch.manual_seed(0)
    student, teacher = convolutional(2), convolutional(4, padding=1)
    before = copy.deepcopy(teacher.state_dict())
    learning = teaching(student, teacher, loss=loss)
    optimizer = torch.optim.Adam([*student.parameters(), *learning.parameters()], 0.01)
    curve = []
    for _ in range(40):
        student(IMAGES)
        loss_now = learning(IMAGES, ROWS).mean()
        optimizer.zero_grad()
        loss_now.backward()
        optimizer.step()
        curve.append(loss_now.item())
    assert curve[-1] < 0.7 * curve[0]
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_connector_is_a_1x1_convolution_to_the_teachers_width() -> None:
    student, teacher = convolutional(2), convolutional(5)
    learning = teaching(student, teacher, loss="hints", pairs={"conv2": "conv2"})
    weight, bias = learning.parameters()
    assert tuple(weight.shape) == (10, 4)
    student(IMAGES)
    ours = F.conv2d(student[:4](IMAGES), weight[..., None, None], bias)
    theirs = teacher[:4](IMAGES)
    expected = (ours - theirs).square().mean((1, 2, 3)) / theirs.square().mean()
    torch.testing.assert_close(learning(IMAGES, ROWS), expected)


def test_connectors_begin_alike_by_seed_and_leave_the_callers_randomness_alone() -> None:
    before = torch.get_rng_state()
    made = [teaching(convolutional(2), convolutional(5)) for _ in range(2)]
    torch.set_rng_state(before)
    student, teacher = convolutional(2), convolutional(5)
    after = torch.get_rng_state()
    teaching(student, teacher)
    assert torch.equal(torch.get_rng_state(), after)
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True))


@pytest.mark.parametrize("loss", losses.FEATURE_LOSSES)
def test_tokens_have_their_channels_last(loss: str) -> None:
    sentences = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))
    student, teacher = Tokens(4), Tokens(6)
    learning = teaching(student, teacher, sentences, loss=loss)
    assert learning.pairs == {"embed": "embed"}
    student(sentences)
    found = learning(sentences, torch.arange(5))
    assert found.shape == (5,)
    if loss == "attention":
        ours, theirs = student.embed(sentences).transpose(1, 2), teacher.embed(sentences).transpose(1, 2)
        torch.testing.assert_close(found, 7 * losses.attention(ours, theirs))


def test_the_teacher_is_not_touched_while_others_run_it() -> None:
    student, teacher = convolutional(2), convolutional(4).train()
    learning = teaching(student, teacher)
    assert teacher.training
    assert not any(module._forward_hooks for module in teacher.modules())
    student(IMAGES)
    told = learning(IMAGES, ROWS)
    teacher(torch.zeros(1, 1, 12, 12))
    student(IMAGES)
    assert torch.equal(learning(IMAGES, ROWS), told)


def test_a_layer_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(RecipeError, match=r"student has no layer 'conv9'\. Did you mean .*Known: conv1, relu1, pool"):
        teaching(convolutional(2), convolutional(2), pairs={"conv9": "conv1"})
    with pytest.raises(RecipeError, match=r"teacher has no layer 'qqq'\. Known: conv1, relu1, pool"):
        teaching(convolutional(2), convolutional(2), pairs={"conv1": "qqq"})
    with pytest.raises(RecipeError, match="no loss 'hintz'"):
        teaching(convolutional(2), convolutional(2), loss="hintz")


@pytest.mark.parametrize(
    ("loss", "pairs", "said"),
    [
        (
            "hints",
            {"conv1": "hidden"},
            r"'conv1' of the student returns \(2, 10, 10\).*'hidden' of the teacher \(10,\)",
        ),
        ("attention", {"hidden": "hidden"}, "attention compares position with position, and needs some"),
    ],
)
def test_layers_that_cannot_be_compared_are_shown_side_by_side(loss: str, pairs: dict[str, str], said: str) -> None:
    with pytest.raises(WorkbenchError, match=said):
        teaching(convolutional(2), convolutional(2), loss=loss, pairs=pairs)
    teaching(convolutional(2), convolutional(2), loss="distance", pairs=pairs)


def test_a_layer_without_a_tensor_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(3, 4, batch_first=True)
            self.idle = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.recurrent(x)[0].mean(1)

    sentences = torch.randn(2, 5, 3)
    for name in ("recurrent", "idle"):
        with pytest.raises(WorkbenchError, match=f"{name!r} of the student returns no tensor"):
            teaching(Odd(), Tokens(4), sentences, loss="distance", pairs={name: "embed"})
