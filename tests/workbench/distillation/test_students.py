from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.distillation.students import parameters, scale_width
from workbench.errors import WorkbenchError


class Residual(nn.Module):
    """Adds to its input, has a block with a projection and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.on_input = nn.Conv2d(3, 3, 3, padding=1)
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.same = nn.Conv2d(16, 16, 3, padding=1)
        self.wider = nn.Conv2d(16, 24, 3, padding=1)
        self.project = nn.Conv2d(16, 24, 1)
        self.norm2 = nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 5)
        self.second = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.on_input(x)
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = F.relu(x + self.same(x))
        x = self.norm2(self.wider(x) + self.project(x)).relu()
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.head(x) + self.second(x)


class Dense(nn.Module):
    """Concatenates, gates its channels, and looks at a value on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 10, 3, padding=1)
        self.b = nn.Conv2d(13, 8, 3, padding=1)
        self.squeeze = nn.Linear(8, 4)
        self.excite = nn.Linear(4, 8)
        self.head = nn.Conv2d(21, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x, self.a(x)), 1)
        y = self.b(x).relu()
        gate = self.excite(self.squeeze(y.mean((2, 3))).relu()).sigmoid()
        if x.mean() > 1e9:  # a symbolic trace stops here
            x = x * 2
        return self.head(torch.cat((x, y * gate[:, :, None, None]), 1)).mean((2, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3),
        nn.PReLU(12),
        nn.Flatten(),
        nn.Linear(108, 20),
        nn.LayerNorm(20),
        nn.Dropout(0.5),
        nn.Linear(20, 5),
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 30), nn.BatchNorm1d(30), nn.Tanh(), nn.Linear(30, 5, bias=False))


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.GroupNorm(4, 16),
        nn.Conv2d(16, 32, 3, groups=16, padding=1),  # two outputs for each input
        nn.BatchNorm2d(32),
        nn.ReLU6(inplace=True),
        nn.Conv2d(32, 24, 1, groups=4),
        nn.ConvTranspose2d(24, 12, 2, stride=2, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


NETS: list[Callable[[], nn.Module]] = [cnn, Residual, mlp, depthwise, Dense]
EXAMPLE = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
each_net = pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__.lower())


@each_net
@pytest.mark.parametrize("width", [0.05, 0.1, 0.3, 0.5, 0.77, 1.0])
def test_a_student_takes_the_same_inputs_and_gives_the_same_number_of_outputs(
    make: Callable[[], nn.Module], width: float
) -> None:
    model = make()
    student = scale_width(model, EXAMPLE, width, seed=0)
    assert type(student) is type(model)
    assert student(EXAMPLE).shape == (4, 5)
    student(EXAMPLE).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())
    assert [name for name, _ in student.named_parameters()] == [name for name, _ in model.named_parameters()]
    if width == 1:
        assert parameters(student) == parameters(model)
    else:
        assert parameters(student) < parameters(model)


@each_net
def test_parameters_grow_with_the_width(make: Callable[[], nn.Module]) -> None:
    counts = [parameters(scale_width(make(), EXAMPLE, width, seed=0)) for width in (0.1, 0.25, 0.5, 0.75, 1.0)]
    assert counts == sorted(set(counts))


def test_each_hidden_layer_has_its_share_of_the_channels() -> None:
    student = scale_width(cnn(), EXAMPLE, 0.5, seed=0)
    assert [tuple(p.shape) for p in student.parameters() if p.dim() > 1] == [
        (4, 3, 3, 3),
        (6, 4, 3, 3),
        (10, 54),
        (5, 10),
    ]
    block = scale_width(Residual(), EXAMPLE, 0.5, seed=0)
    assert block.get_submodule("on_input").weight.shape == (3, 3, 3, 3)  # is added to the input
    assert block.get_submodule("stem").weight.shape == (8, 3, 3, 3)
    assert block.get_submodule("project").weight.shape == (12, 8, 1, 1)
    assert block.get_submodule("norm2").running_var.shape == (12,)
    assert block.get_submodule("head").weight.shape == block.get_submodule("second").weight.shape == (5, 12)


def test_depthwise_convolutions_stay_depthwise_and_groups_stay_where_they_fit() -> None:
    student = scale_width(depthwise(), EXAMPLE, 0.5, seed=0)
    assert [(m.in_channels, m.out_channels, m.groups) for m in student if hasattr(m, "groups")] == [
        (3, 8, 1),
        (8, 16, 8),
        (16, 12, 4),
        (12, 8, 4),  # 6 would not fit into 4 groups
    ]
    assert (student[1].num_groups, student[1].num_channels) == (4, 8)


def test_groups_give_way_where_they_would_keep_a_layer_wide() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.GroupNorm(32, 64), nn.Flatten(), nn.Linear(64 * 144, 5))
    student = scale_width(model, EXAMPLE, 0.1, seed=0)
    assert (student[1].num_groups, student[1].num_channels) == (8, 8)  # 6.4 channels, cut by 4, the largest that fits


@each_net
def test_the_model_and_the_global_random_state_are_left_as_they_were(make: Callable[[], nn.Module]) -> None:
    model = make().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    text, random_state = repr(model), torch.get_rng_state()
    student = scale_width(model, EXAMPLE, 0.4, seed=3)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert repr(model) == text
    assert model.training
    assert student.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*student.modules(), *model.modules()))


@each_net
def test_the_seed_alone_decides_on_the_weights(make: Callable[[], nn.Module]) -> None:
    model, other = make(), make()  # of other weights
    torch.manual_seed(1)
    first = scale_width(model, EXAMPLE, 0.5, seed=7).state_dict()
    torch.manual_seed(2)
    same = scale_width(other, EXAMPLE, 0.5, seed=7).state_dict()
    different = scale_width(model, EXAMPLE, 0.5, seed=8).state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], different[name]) for name in first)


def test_a_frozen_model_in_inference_mode_gives_a_student_that_can_learn() -> None:
    model = cnn().eval().requires_grad_(False)
    with torch.inference_mode():
        student = scale_width(model, EXAMPLE.clone(), 0.5, seed=0)
    student(EXAMPLE).sum().backward()
    assert not student.training
    assert all(p.grad is not None for p in student.parameters())


def test_a_model_that_changes_its_input_in_place_does_not_change_the_example() -> None:
    model, example = nn.Sequential(nn.ReLU(inplace=True), *mlp()), EXAMPLE.clone()
    assert scale_width(model, example, 0.5, seed=0)[2].weight.shape == (15, 432)
    assert torch.equal(example, EXAMPLE)
    assert not example.requires_grad


def test_a_layer_that_is_called_twice_is_made_once() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.again, self.leave = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.again(self.again(self.enter(x).relu()).relu()))

    student = scale_width(Loop(), torch.zeros(3, 6), 0.5, seed=0)
    assert student.get_submodule("again").weight.shape == (4, 4)


def test_models_in_other_threads_go_on_running() -> None:
    other, stop, problems = mlp().eval(), threading.Event(), []

    def run() -> None:
        while not stop.is_set():
            try:
                other(EXAMPLE)
            except Exception as error:
                problems.append(error)
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for seed in range(20):
            scale_width(cnn(), EXAMPLE, 0.5, seed)
    finally:
        stop.set()
        thread.join()
    assert not problems


class View(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(800, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(-1, 800))


class OwnParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.scale = nn.Linear(432, 5), nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)) * self.scale


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(432, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x.flatten(1)), x


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (View(), r"fc gets \(2, 800\).*flatten\(1\)"),
        (nn.Sequential(nn.Flatten(2), nn.GRU(144, 5)), "1 \\(GRU\\)"),
        (nn.Sequential(nn.Flatten(), OwnParameter()), "1 \\(OwnParameter\\).*scale"),
        (nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(432, 5))), "Parametrized"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), "no Linear or convolution"),
        (Two(), "returns a tuple"),
        (nn.Sequential(nn.Conv2d(4, 5, 1)), "cannot run on the example: 0 says"),
    ],
    ids=["view", "gru", "parameter", "parametrized", "empty", "tuple", "channels"],
)
def test_what_cannot_be_made_narrower_is_named(model: nn.Module, named: str) -> None:
    with pytest.raises(WorkbenchError, match=named):
        scale_width(model, EXAMPLE, 0.5, seed=0)


def test_what_fails_only_when_narrow_is_named_too() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(432, 6), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.glu(self.fc(x.flatten(1))))

    assert scale_width(Halves(), EXAMPLE, 0.67, seed=0)(EXAMPLE).shape == (4, 5)  # 4 channels can be halved
    with pytest.raises(WorkbenchError, match=r"Halves cannot be made narrower: its own forward says: Halving"):
        scale_width(Halves(), EXAMPLE, 0.5, seed=0)  # 3 cannot


def test_a_gate_that_no_longer_fits_its_concatenation_is_said() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.gate, self.out = nn.Linear(432, 6), nn.Linear(432, 438), nn.Linear(438, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.out(torch.cat((x, self.a(x)), 1) * self.gate(x))

    with pytest.raises(WorkbenchError, match=r"Gated cannot be made narrower: its own forward says: .*435.*219"):
        scale_width(Gated(), EXAMPLE, 0.5, seed=0)


@pytest.mark.parametrize("width", [0.0, -0.5, 1.5, float("nan")])
def test_a_width_is_a_share(width: float) -> None:
    with pytest.raises(WorkbenchError, match="above 0 and at most 1"):
        scale_width(mlp(), EXAMPLE, width, seed=0)


def test_whole_numbers_as_inputs_are_refused() -> None:
    with pytest.raises(WorkbenchError, match="floating-point inputs"):
        scale_width(mlp(), EXAMPLE.long(), 0.5, seed=0)
