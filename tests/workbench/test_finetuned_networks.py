"""Fine-tuned networks by way of the bench: trained once, found again, shipped, refused."""

from __future__ import annotations

import dataclasses
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from workbench import Cancelled, Deployment, Distillation, Finetuning, Quantization, Recipe, RecipeError, Task
from workbench.delivery.artifact import read
from workbench.quantization.quantizer import specs
from workbench.store import Store
from workbench.task import TrainingData

sys.path.insert(0, str(Path(__file__).parent / "finetuning"))
from lessons import RECIPE, bench, data, network


def plain(recipe: Recipe) -> Recipe:
    return recipe.replace(finetuning=None)


COARSE = RECIPE.replace(
    quantization=Quantization(weight_bits=2, activation_bits=4, granularity="tensor", range="minmax")
)
"""Rounding alone costs much."""


def test_two_bits_win_by_fine_tuning_and_the_next_process_finds_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench(store)
    state = {name: value.clone() for name, value in first._network.module.state_dict().items()}
    assert not first.finetuned(COARSE)
    assert first.known(COARSE) is None
    report = first.measure(COARSE)
    rounded = first.measure(plain(COARSE))
    assert report.accuracy.value - rounded.accuracy.value > 0.05
    assert report.accuracy.source == "simulated"
    assert report.size.value == pytest.approx(rounded.size.value, rel=0.1)
    assert report.latency is not None and report.layers[0].cost is not None
    assert all(torch.equal(value, state[name]) for name, value in first._network.module.state_dict().items())

    second = bench(Store(store.folder))
    monkeypatch.setattr("workbench.finetuned_networks.finetune", lambda *_: pytest.fail("trained again"))
    assert second.finetuned(COARSE)
    assert second.known(COARSE) == report
    assert [p.done for p in second.finetune(COARSE)] == [True]
    *_, again = second.stream(COARSE)
    assert again.accuracy == report.accuracy
    assert not second.finetuned(COARSE.replace(finetuning=COARSE.finetuning.replace(seed=1)))
    assert not second.finetuned(COARSE.replace(quantization=COARSE.quantization.replace(weight_bits=3)))
    assert not second.finetuned(plain(COARSE))


def test_the_same_bits_named_layer_by_layer_are_the_same_network(store: Store) -> None:
    made = bench(store)
    list(made.finetune(RECIPE))
    by_layer = {name: {"weight_bits": 2, "activation_bits": 8} for name in ("0", "3", "5")}
    assert made.finetuned(RECIPE.replace(quantization=Quantization(layers=by_layer)))


@pytest.mark.parametrize("bits", [(2, 8), (2, None), (None, 3)])
def test_the_files_give_what_was_measured(bits: tuple[int | None, int | None], store: Store, tmp_path: Path) -> None:
    made = bench(store)
    recipe = RECIPE.replace(quantization=Quantization(weight_bits=bits[0], activation_bits=bits[1]))
    *_, report = made.stream(recipe)
    packed = made.export(recipe, tmp_path / "model.safetensors")
    assert packed.stat().st_size == report.size.value
    artifact = read(packed.read_bytes())
    model = network()
    model.load_state_dict(artifact.state)
    tuned = made._network_for(recipe)
    layers = made._subject(recipe, None).layers
    for name, layer in layers.items():
        for key, value in layer.parameters().items():
            assert torch.equal(model.state_dict()[key], value), name
    if bits[1] is None:
        with torch.inference_mode():
            hits = (model(made.task.inputs.tensors[0]).argmax(1) == made.task.targets).float().mean()
        assert float(hits) == pytest.approx(report.accuracy.value)
    assert not torch.equal(tuned.module.state_dict()["0.weight"], network().state_dict()["0.weight"])


def test_onnxruntime_gives_what_was_simulated(store: Store, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = bench(store)
    *_, report = made.stream(RECIPE)
    session = onnxruntime.InferenceSession(str(made.export(RECIPE, tmp_path / "model.onnx")))
    given = made.task.inputs.tensors[0]
    name = session.get_inputs()[0].name
    answers = torch.cat([torch.from_numpy(session.run(None, {name: x.numpy()})[0]) for x in given.split(1)]).argmax(1)
    network_ = made._network_for(RECIPE)
    simulated = network_.simulation.run(made.task.inputs, specs(RECIPE.quantization, network_.layers)).argmax(1)
    assert float((answers == simulated).float().mean()) >= 0.995
    assert float((answers == made.task.targets).float().mean()) == pytest.approx(report.accuracy.value, abs=0.005)


def test_one_network_is_good_at_all_nested_widths(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(store)
    recipe = RECIPE.replace(finetuning=RECIPE.finetuning.replace(nested=(2, 3, 8)))
    list(made.finetune(recipe))
    monkeypatch.setattr("workbench.finetuned_networks.finetune", lambda *_: pytest.fail("trained again"))
    keys, steps = set(), set()
    for bits in (2, 3, 8):
        own = recipe.replace(quantization=recipe.quantization.replace(weight_bits=bits))
        assert made.finetuned(own)
        *_, tuned = made.stream(own)
        keys.add(made._network_for(own).key)
        grid = made._subject(own, None).layers["3"].weight_grid
        assert grid is not None and grid.bits == bits
        steps.add(float(grid.scale[0]))
        *_, rounded = made.stream(plain(own))
        assert tuned.accuracy.value > rounded.accuracy.value - 0.02
    assert len(keys) == 1
    assert len(steps) == 3
    with pytest.raises(RecipeError, match="nested"):
        made.check(recipe.replace(quantization=recipe.quantization.replace(weight_bits=4)))


def test_what_a_cancelled_training_made_is_used_and_not_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.finetuning.trainer.SECONDS_BETWEEN", 0.0)
    cancel, made = threading.Event(), bench(store)
    for progress in made.finetune(RECIPE, cancel):
        if progress.step == 8:
            cancel.set()
    assert progress.cancelled
    assert made.finetuned(RECIPE)
    assert not bench(store).finetuned(RECIPE)
    *_, report = made.stream(RECIPE)
    assert report.complete
    whole = list(made.finetune(RECIPE))  # goes on from its first epoch
    assert whole[-1].resumed and whole[-1].step == whole[-1].steps
    assert bench(store).finetuned(RECIPE)


def test_a_cancel_before_anything_was_learned(store: Store) -> None:
    cancel, made = threading.Event(), bench(store)
    cancel.set()
    assert [p.done for p in made.finetune(RECIPE, cancel)] == [False, True]
    with pytest.raises(Cancelled):
        made.measure(RECIPE, cancel)
    assert not made.finetuned(RECIPE)


def test_a_damaged_file_is_trained_again(store: Store) -> None:
    list(bench(store).finetune(RECIPE))
    (file,) = (store.folder / "finetuned").iterdir()
    file.write_bytes(file.read_bytes()[:-200])
    told = list(bench(store).finetune(RECIPE))
    assert len(told) > 1 and told[-1].done and not told[-1].resumed


def test_a_student_is_fine_tuned(store: Store) -> None:
    pictures, labels = data(200, 1)
    task = Task.classification(pictures, labels, calibration=data(64, 2)[0], training=data(2300, 3), classes=4)
    made = wb.Bench(network(), task, store=store)
    student = Distillation(teacher="self", images=200, labels=100, epochs=1, width=0.5)
    recipe = RECIPE.replace(distillation=student, finetuning=RECIPE.finetuning.replace(epochs=1))
    assert not made.finetuned(recipe)
    report = made.measure(recipe)
    assert made.finetuned(recipe)
    assert report.layers[0].shape[0] == 3
    assert report.distillation is not None
    taught = recipe.replace(finetuning=recipe.finetuning.replace(teacher="self"))
    assert not made.finetuned(taught)  # by the model in the place of the student itself
    assert made._network_for(taught).key != made._network_for(recipe).key


class Turned(nn.Module):
    """Says the class before the right one, and is sure of it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.network(x).roll(-1, dims=1)


def taught_by(teacher: str | None, **changes: object) -> Recipe:
    return RECIPE.replace(finetuning=RECIPE.finetuning.replace(teacher=teacher, learning_rate=0.02, **changes))


@pytest.mark.parametrize("nested", [(), (2, 8)])
def test_a_named_teacher_is_learned_from_in_the_place_of_the_network_itself(
    nested: tuple[int, ...], store: Store
) -> None:
    made = bench(store, turned=Turned())
    recipe = taught_by("turned", nested=nested, epochs=6)
    *_, report = made.stream(recipe)
    tuned = made._network_for(recipe)
    answers = tuned.simulation.run(made.task.inputs, specs(recipe.quantization, tuned.layers)).argmax(1)
    assert report.accuracy.high < 0.3
    assert float((answers == (made.task.targets - 1) % 4).float().mean()) > 0.7


def test_what_was_made_without_a_teacher_is_found_where_there_are_some_now(store: Store) -> None:
    list(bench(store).finetune(RECIPE))
    made = bench(store, turned=Turned())
    assert made.finetuned(RECIPE)
    assert not made.finetuned(taught_by("turned"))
    list(made.finetune(taught_by("turned")))
    assert bench(store, turned=Turned()).finetuned(taught_by("turned"))
    assert not bench(store, turned=network()).finetuned(taught_by("turned"))


def test_teachers_that_cannot_teach_are_told(store: Store) -> None:
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    made = bench(store, turned=Turned(), narrow=narrow)
    with pytest.raises(RecipeError, match=r"finetuning.teacher: there is no teacher 'turnt'. Did you mean 'turned'"):
        made.check(taught_by("turnt"))
    with pytest.raises(RecipeError, match=r"finetuning.distillation = 0: the teacher 'turned' has no share"):
        made.check(taught_by("turned", distillation=0.0))
    with pytest.raises(wb.WorkbenchError, match=r"'narrow' returns \(3,\).* the model \(4,\)"):
        list(made.finetune(taught_by("narrow")))


def test_outputs_that_are_no_classes_learn_from_those_of_the_network(store: Store) -> None:
    inputs = data(200, 1)[0]
    task = dataclasses.replace(
        Task.fidelity(inputs, calibration=data(64, 2)[0], output=lambda y: y[:, :1]),
        training=TrainingData(300, lambda: (data(300, 4)[0], torch.zeros(300))),
    )
    made = wb.Bench(network(), task, store=store)
    recipe = RECIPE.replace(finetuning=RECIPE.finetuning.replace(images=270))
    named = {score.metric.name: score.value.value for score in made.measure(recipe).scores}
    before = {score.metric.name: score.value.value for score in made.measure(plain(recipe)).scores}
    name = next(name for name in named if "noise" in name.lower() or "sqnr" in name.lower())
    assert named[name] > before[name] + 1


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (RECIPE.replace(finetuning=Finetuning(images=541)), "541.*540 to train on"),
        (RECIPE.replace(quantization=Quantization()), "quantizes no layer"),
        (RECIPE.replace(quantization=Quantization(weight_bits=4, method="naive")), "naive"),
        (RECIPE.replace(finetuning=Finetuning(images=10, nested=(3, 4))), "weights of 2 bits"),
    ],
)
def test_what_cannot_be_is_said_with_what_can(recipe: Recipe, said: str, store: Store) -> None:
    made = bench(store)
    for ask in (made.check, made.finetune, made.measure):
        with pytest.raises(RecipeError, match=said):
            ask(recipe)


def test_without_training_data_or_settings_there_is_nothing_to_train(store: Store) -> None:
    pictures, labels = data(40, 1)
    made = wb.Bench(Whole(), Task.classification(pictures, labels), store=store)
    with pytest.raises(RecipeError, match="no training examples"):
        made.check(RECIPE)
    with pytest.raises(RecipeError, match="finetuning="):
        bench(store).finetune(plain(RECIPE))


def test_it_cannot_be_predicted_or_planned(store: Store) -> None:
    made = bench(store)
    assert not made.predictable(RECIPE)
    with pytest.raises(RecipeError, match="measure it"):
        made.predict(RECIPE)
    with pytest.raises(RecipeError, match="fine-tune the plan"):
        made.plan(max_bytes=3000, template=RECIPE)


def test_methods_that_look_at_the_whole_network_only_begin_it(store: Store) -> None:
    made = bench(store)
    recipe = RECIPE.replace(
        quantization=RECIPE.quantization.replace(method="quantease", correction="bias", range="hessian"),
        deployment=Deployment(runtime="eager"),
    )
    tuned = made._network_for(recipe)
    layer = made._subject(recipe, None).layers["3"]
    weight = tuned.layers["3"].weight
    assert weight is not None and layer.weight_grid is not None
    assert torch.equal(layer.weight, layer.weight_grid.quantize(weight.detach()))


@pytest.mark.parametrize("scheme", ["symmetric", "affine", "midrise"])
def test_training_begins_where_the_method_left_the_network(scheme: str, store: Store) -> None:
    made = bench(store)
    chosen = {"method": "quantease", "correction": "bias", "range": "hessian", "scheme": scheme}
    recipe = RECIPE.replace(quantization=RECIPE.quantization.replace(**chosen))
    twin, _ = made._finetuned._prepared(recipe, made._network, None)
    weights = twin.weights()
    moved = 0
    for name, layer in made._subject(plain(recipe), None).layers.items():
        assert layer.weight is not None
        own = weights[layer.weight_name]
        assert torch.equal(twin.held[name, "weight", 2].made().quantize(own), layer.weight)
        assert torch.allclose(weights[layer.bias_name], layer.bias_values(), atol=1e-6)
        moved += int((own != network().state_dict()[layer.weight_name]).sum())
    assert 0 < moved < sum(weight.numel() for weight in weights.values()) / 2
