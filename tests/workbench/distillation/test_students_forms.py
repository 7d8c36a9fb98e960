"""What holds for students of every form, of random networks."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench import Distillation, RecipeError, WorkbenchError
from workbench.distillation.students import Reduced, make_student, parameters
from workbench.distillation.students.depth import SkippedBranch, drop_blocks
from workbench.distillation.students.low_rank import factorize
from workbench.distillation.students.making import initialise
from workbench.distillation.students.separable import separate

SHARES = {"width": "width", "depth": "depth", "low_rank": "rank"}
FORMS = (*SHARES, "separable")


class Block(nn.Module):
    """Adds to what it takes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels + 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels + 3)
        self.second = nn.Conv2d(channels + 3, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.norm(self.first(x)).relu())


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A convolutional or Linear network with values as after a training, and a batch of its inputs."""
    convolutional = draw(st.booleans())
    channels = draw(st.integers(1, 7)) if convolutional else 9
    example = torch.randn(3, channels, 6, 6) if convolutional else torch.randn(3, channels)
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        new = draw(st.integers(1, 12) | st.just(channels))
        if not convolutional:
            layers += [
                nn.Linear(channels, new),
                draw(st.sampled_from([nn.BatchNorm1d, nn.LayerNorm, nn.Identity]))(new),
            ]
        elif draw(st.booleans()):
            layers += [nn.Conv2d(channels, new, draw(st.sampled_from([1, 3])), padding=1), nn.BatchNorm2d(new)]
        else:
            new = channels
            layers += [Block(channels), nn.PReLU(draw(st.sampled_from([1, channels])))]
        layers.append(draw(st.sampled_from([nn.ReLU, nn.GELU, nn.Hardswish]))())
        channels = new
    if convolutional:
        layers += [draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))(2), nn.Flatten()]
    width = nn.Sequential(*copy.deepcopy(layers)).eval()(example).shape[1]
    model = nn.Sequential(*layers, nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 4))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
    return model.eval(), example


def made(model: nn.Module, example: Tensor, form: str, share: float = 0.4, initial: str = "model") -> Reduced | None:
    """None where nothing can be reduced."""
    shares = {SHARES[form]: share} if form in SHARES else {}
    try:
        return make_student(model, example, Distillation(form=form, initial=initial, **shares))
    except WorkbenchError as error:
        assert "can be reduced by form" in str(error)
        return None


@settings(max_examples=25, deadline=None)
@given(networks(), st.sampled_from(FORMS), st.floats(0.05, 0.95), st.sampled_from(["random", "model"]))
def test_a_student_gives_what_the_model_gives_in_shape_learns_and_is_smaller(
    drawn: tuple[nn.Module, Tensor], form: str, share: float, initial: str
) -> None:
    model, example = drawn
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    reduced = made(model, example, form, share, initial)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if reduced is not None:
        student = reduced.module
        output = student(example)
        assert output.shape == model(example).shape
        output.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
        assert parameters(student) < parameters(model)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*student.modules(), *model.modules()))


@settings(max_examples=20, deadline=None)
@given(networks(), st.sampled_from(list(SHARES)), st.lists(st.floats(0.02, 1), min_size=2, max_size=4))
def test_parameters_never_grow_when_the_share_shrinks(
    drawn: tuple[nn.Module, Tensor], form: str, shares: list[float]
) -> None:
    model, example = drawn
    students = [made(model, example, form, share) for share in sorted(shares)]
    counts = [parameters(model if each is None else each.module) for each in students]
    assert counts == sorted(counts)


@settings(max_examples=25, deadline=None)
@given(networks(), st.sampled_from(list(SHARES)))
def test_a_student_of_the_whole_model_computes_what_the_model_computes(
    drawn: tuple[nn.Module, Tensor], form: str
) -> None:
    model, example = drawn
    reduced = made(model, example, form, 1.0)
    assert reduced is not None
    assert reduced.fresh == reduced.changed == ()
    torch.testing.assert_close(reduced.module(example), model(example))


@settings(max_examples=15, deadline=None)
@given(networks(), st.sampled_from(FORMS), st.sampled_from(["random", "model"]))
def test_the_same_settings_make_the_same_student(drawn: tuple[nn.Module, Tensor], form: str, initial: str) -> None:
    model, example = drawn
    first = made(model, example, form, initial=initial)
    torch.manual_seed(5)
    again = made(model, example, form, initial=initial)
    assert (first is None) == (again is None)
    if first is not None and again is not None:
        one, other = first.module.state_dict(), again.module.state_dict()
        assert list(one) == list(other)
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.integers(2, 8), st.sampled_from([1, 3]), st.booleans())
def test_factors_are_the_nearest_of_their_rank(inputs: int, outputs: int, window: int, bias: bool) -> None:
    layer = nn.Conv2d(inputs, outputs, window, stride=2, padding=1, bias=bias)
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(2))
    example = torch.randn(2, inputs, 7, 7)
    model(example)
    reduced = factorize(model.eval(), example, 0.34)
    if "0" in reduced.changed:
        first, second = reduced.module[0]
        product = (second.weight.flatten(1) @ first.weight.flatten(1)).detach()
        matrix = layer.weight.flatten(1).detach()
        values = torch.linalg.svdvals(matrix)
        lost = torch.linalg.matrix_norm(matrix - product)
        torch.testing.assert_close(lost, values[len(first.weight) :].square().sum().sqrt())  # Eckart and Young 1936


def test_a_convolution_that_is_separable_is_found() -> None:
    depth, across = torch.randn(6, 1, 3, 3), torch.randn(9, 6, 1, 1)
    layer = nn.Conv2d(6, 9, 3, stride=2, padding=2, dilation=2, padding_mode="circular")
    layer.weight = nn.Parameter(across * depth.transpose(0, 1))
    model, example = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(9, 2, 1)), torch.randn(2, 6, 9, 9)
    reduced = separate(model, example)
    assert reduced.changed == ("0",)
    assert reduced.kept == {"2": "no window"}
    torch.testing.assert_close(reduced.module(example), model(example), atol=1e-5, rtol=1e-5)


class Deep(nn.Module):
    """A list of blocks, one of which does nothing yet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.blocks = nn.ModuleList([Block(6), Block(6), nn.Sequential(nn.Conv2d(6, 8, 1)), Block(8)])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def test_blocks_that_change_least_go_first() -> None:
    model, example = Deep().eval(), torch.randn(2, 3, 6, 6)
    nn.init.zeros_(model.blocks[1].second.weight)
    nn.init.zeros_(model.blocks[1].second.bias)
    nn.init.normal_(model.blocks[0].second.weight)
    third = drop_blocks(model, example, 0.67)
    assert third.changed == ("blocks.1",)
    torch.testing.assert_close(third.module(example), model(example))
    assert third.kept["blocks.0"] == third.kept["blocks.3"] == "kept at this depth"
    assert third.kept["stem"] == third.kept["head"] == "no block around gives back the shape that it takes"
    assert set(third.changed) < set(drop_blocks(model, example, 0.3).changed)
    assert drop_blocks(model, example, 0.01).changed == ("blocks.0", "blocks.1", "blocks.3")


def test_a_layer_goes_with_its_normalisation() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval()
    example = torch.randn(2, 5)
    student = drop_blocks(model, example, 0.5).module
    assert parameters(student) == 18
    torch.testing.assert_close(student(example), model[3](example.relu()))


def test_of_a_branch_that_is_left_out_nothing_is_added() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.branch(x))

    model, example = Added(), torch.randn(2, 5)
    student = drop_blocks(model, example, 0.5).module
    assert isinstance(student.get_submodule("branch"), SkippedBranch)
    torch.testing.assert_close(student(example), model.head(example))


def test_layers_that_are_tied_or_not_called_stay() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.silent = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.b.weight = self.a.weight
            self.c, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.c(self.b(self.a(x)))
            return self.head(nn.functional.linear(x, self.silent.weight))

    reduced = factorize(Odd(), torch.randn(2, 8), 0.25)
    assert reduced.changed == ("c",)
    assert reduced.kept["a"] == reduced.kept["b"] == "weight shared with another layer"
    assert reduced.kept["silent"] == "not called as a layer"


def test_layers_whose_weights_another_module_reads_stay() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
    model, example = (
        nn.Sequential(nn.Linear(8, 8), encoder, nn.Flatten(), nn.Linear(40, 3)).eval(),
        torch.randn(2, 5, 8),
    )
    reduced = factorize(model, example, 0.25)
    assert reduced.changed == ("0",)
    assert reduced.kept["1.linear1"] == "read by its TransformerEncoderLayer"
    with torch.inference_mode():
        assert reduced.module(example).shape == (2, 3)


def test_a_model_that_runs_otherwise_where_it_is_not_watched_is_told() -> None:
    class Shy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            watched = self.fc._forward_hooks
            return self.head(self.fc(x) if watched else nn.functional.linear(x, self.fc.weight))

    with pytest.raises(WorkbenchError, match=r"Shy no longer runs when it is reduced: .*weight"):
        factorize(Shy(), torch.randn(2, 8), 0.25)


@pytest.mark.parametrize("form", ["depth", "separable", "low_rank"])
def test_where_nothing_can_be_reduced_it_is_said(form: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(WorkbenchError, match=rf"Nothing of Sequential can be reduced by form = '{form}': 0: "):
        make_student(model, torch.randn(2, 4), Distillation(form=form))


@pytest.mark.parametrize("form", FORMS)
def test_whole_numbers_as_inputs_are_refused_by_all_forms(form: str) -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(WorkbenchError, match=r"floating-point inputs|cannot be made narrower"):
        make_student(model, torch.ones(2, 3, dtype=torch.long), Distillation(form=form))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_shares_are_above_zero_and_at_most_one(share: float) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    for make in (drop_blocks, factorize):
        with pytest.raises(WorkbenchError, match="above 0 and at most 1"):
            make(model, torch.randn(2, 4), share)


def test_a_parameter_of_no_known_beginning_is_named() -> None:
    class Scaled(nn.Linear):
        pass

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.inner = nn.Parameter(torch.full((3,), 7.0)), Scaled(3, 3)

    model = Own()
    weight = model.inner.weight.detach().clone()
    assert initialise(model, 0) == ("",)
    assert torch.equal(model.scale, torch.full((3,), 7.0))
    assert not torch.equal(model.inner.weight, weight)


def own(model: nn.Module, student: object, initial: str = "random") -> Reduced:
    return make_student(model, torch.ones(2, 4), Distillation(student="mine", initial=initial), {"mine": student})


def test_an_own_student_is_copied_or_made_by_the_seed() -> None:
    model, given_one = nn.Linear(4, 3), nn.Linear(4, 3)
    copied = own(model, given_one).module
    assert copied is not given_one
    assert torch.equal(copied.weight, given_one.weight)
    weights = [own(model, lambda: nn.Linear(4, 3)).module.weight for _ in range(2)]
    assert torch.equal(*weights)
    assert own(model, lambda: given_one).module is not given_one


def test_an_own_student_takes_what_has_the_models_names_and_shapes() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    reduced = own(model, nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)), "model")
    assert torch.equal(reduced.module[0].weight, model[0].weight)
    assert reduced.fresh == ("1", "2")


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (nn.Linear(4, 7), r"shape \(4,\), the student 'mine' returns \(7,\) and the model \(3,\)"),
        (
            nn.Linear(9, 3),
            r"does not take what the model takes. The model: \(4,\) per example. The student: its only layer, Linear, "
            r"takes \(9,\), and \(4,\) arrives there\.$",
        ),
        (lambda: "net", "is a str; a torch.nn.Module is needed"),
    ],
    ids=["classes", "inputs", "type"],
)
def test_an_own_student_that_does_not_fit_is_shown_beside_the_model(student: object, words: str) -> None:
    with pytest.raises(WorkbenchError, match=words):
        own(nn.Linear(4, 3), student)


def test_an_unknown_own_student_is_named() -> None:
    with pytest.raises(RecipeError, match=r"no student 'mime'.*'mine'"):
        make_student(nn.Linear(4, 3), torch.ones(2, 4), Distillation(student="mime"), {"mine": nn.Linear(4, 3)})
