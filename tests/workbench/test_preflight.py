from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.errors import Cancelled
from workbench.runtimes.unexportable import unexportable

torch.manual_seed(0)
IMAGES = torch.randn(40, 3, 12, 12)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.15)


class Net(nn.Module):
    """A small convolutional network that has seen normalised images."""

    def __init__(self, **told):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        if told:
            self.pretrained_cfg = told
        with torch.no_grad():
            self.train()
            for _ in range(30):
                self(torch.randn(64, 3, 12, 12))
        self.eval()

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else self.fc(-x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.branch, self.norm = nn.Linear(6, 6), Branch(), nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(self.branch(self.first(x)))


@pytest.fixture
def look(store):
    def preflight(model, task):
        return wb.Bench(model, task, store=store).preflight()

    return preflight


def test_it_says_of_every_layer_and_every_runtime_what_works(look):
    found = look(Net(), wb.Task.fidelity(IMAGES))

    assert [(layer.name, layer.weights, layer.activations) for layer in found.layers] == [
        ("conv", "", ""),
        ("head", "", ""),
    ]
    works = {(check.runtime, check.precision): check.works for check in found.runtimes}
    assert works[("onnxruntime", "fp32")]
    assert works[("onnxruntime", "int8")]
    assert works[("eager", "fp32")]
    assert not works[("eager", "int8")]  # its kernels are fp32 whatever the bits
    assert found.complete
    assert not found.warnings
    assert found.baseline.value == 1
    assert found.memory > 4 * found.parameters
    assert "conv" in found._repr_html_()
    assert "conv" in str(found)


def test_the_first_answer_comes_before_any_runtime_is_tried(store):
    first = next(wb.Bench(Net(), wb.Task.fidelity(IMAGES), store=store).preflight_stream())

    assert len(first.layers) == 2
    assert not first.complete
    assert not first.runtimes


def test_what_is_left_alone_is_listed_with_its_reason(look):
    found = look(Outer(), wb.Task.fidelity(torch.randn(40, 6)))

    assert [(each.name, each.kind) for each in found.left_alone] == [("norm", "LayerNorm")]
    assert "normalisation" in found.left_alone[0].reason


@pytest.mark.parametrize(
    "images",
    [IMAGES * 4, IMAGES / 5, (IMAGES * 0.2 + 0.5).clamp(0, 1) * 255],
    ids=["too wide", "too narrow", "bytes"],
)
def test_inputs_of_another_scale_than_in_training_are_warned_of(look, images):
    assert any("normalis" in text for text in look(Net(), wb.Task.fidelity(images)).warnings)


def test_pixels_from_0_to_1_are_warned_of_where_the_checkpoint_says_otherwise(look):
    told = {"mean": MEAN, "std": STD, "input_size": (3, 16, 16)}
    warnings = look(Net(**told), wb.Task.fidelity(IMAGES.sigmoid())).warnings

    assert any("mean (0.5, 0.4, 0.3)" in text for text in warnings)
    assert any("(3, 16, 16)" in text for text in warnings)


def test_an_accuracy_far_below_the_checkpoints_word_is_warned_of(look):
    labels = torch.randint(0, 4, (40,))
    task = wb.Task.classification(IMAGES, labels, calibration=IMAGES[:8], classes=4)

    assert any("chance" in text or "checkpoint says 99" in text for text in look(Net(top1=99.0), task).warnings)


def test_a_fitting_network_is_not_warned_of(look):
    model = Net(mean=(0.5, 0.5, 0.5), std=(0.12, 0.12, 0.12), input_size=(3, 12, 12), top1=0.9)
    scores = model(IMAGES)
    labels = (scores - scores.mean(0)).argmax(1)
    model.head.bias.data -= scores.mean(0).detach()
    task = wb.Task.classification(IMAGES, labels, calibration=torch.randn(20, 3, 12, 12), classes=4)

    assert look(model, task).warnings == ()


def test_nan_in_fp32_is_said_before_any_comparison(look):
    model = Net()
    model.head.weight.data[0, 0] = float("nan")

    assert any("NaN" in text for text in look_first(model).warnings)


def look_first(model):
    return next(wb.Bench(model, wb.Task.fidelity(IMAGES)).preflight_stream())


def test_random_outputs_are_warned_of():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(432, 4)

        def forward(self, x):
            return self.fc(nn.functional.dropout(x.flatten(1), 0.5, training=True))

    assert any("random" in text for text in look_first(Noisy()).warnings)


def test_looking_at_a_model_that_draws_leaves_the_random_numbers_of_the_process(look):
    class Drawing(Net):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x), 0.5, training=True)

    model = Drawing()
    before = torch.get_rng_state()
    look(model, wb.Task.fidelity(IMAGES))

    assert torch.equal(torch.get_rng_state(), before)


def test_examples_that_depend_on_each_other_are_warned_of():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(432, 4)

        def forward(self, x):
            return self.fc((x - x.mean(0)).flatten(1))

    assert any("depends on the others" in text for text in look_first(Mixing()).warnings)


def test_a_model_in_training_mode_is_measured_in_evaluation_mode_and_told_so():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(432, 4)).train()

    assert any("training mode" in text for text in look_first(model).warnings)
    assert model.training


def test_the_part_that_cannot_be_exported_is_named(look):
    found = look(Outer(), wb.Task.fidelity(torch.randn(40, 6)))

    assert any(note.startswith("branch (Branch) cannot be exported") for note in found.notes)
    assert any("run whole" in note for note in found.notes)
    works = {(check.runtime, check.precision): check.works for check in found.runtimes}
    assert not works[("onnxruntime", "fp32")]
    assert works[("eager", "fp32")]


def test_nothing_is_named_in_a_model_that_exports():
    assert unexportable(Net(), wb.Inputs(IMAGES[:2])) == []


def test_it_can_be_cancelled_between_its_steps(store):
    cancel = threading.Event()
    looking = wb.Bench(Net(), wb.Task.fidelity(IMAGES), store=store).preflight_stream(cancel)
    next(looking)
    cancel.set()

    with pytest.raises(Cancelled):
        next(looking)
