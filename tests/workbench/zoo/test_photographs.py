from __future__ import annotations

import importlib.util
import pickle

import pytest
import torch

import workbench as wb
from workbench import WorkbenchError, zoo
from workbench.store import Store
from workbench.zoo import efficientnet, photographs

if "efficientnet-lite0" not in zoo.names():
    pytest.skip(dict(zoo.offers())["efficientnet-lite0"], allow_module_level=True)

needs_labels = pytest.mark.skipif(not photographs.labelled(), reason="foolbox is not installed")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(scope="module")
def model():
    return zoo.model("efficientnet-lite0")


@torch.inference_mode()
def hits(model, task) -> int:
    return int((torch.cat([model(x) for x in task.inputs.tensors[0].split(10)]).argmax(1) == task.targets).sum())


@needs_labels
def test_right_preprocessing_is_right(model) -> None:
    task = zoo.task("efficientnet-lite0")
    assert len(task) == 20
    assert hits(model, task) >= 17
    assert hits(model, photographs.task(**IMAGENET)) < hits(model, task)


@needs_labels
def test_calibration_shows_none_of_the_pictures() -> None:
    task = zoo.task("efficientnet-lite0")
    calibration = task.calibration.tensors[0]
    assert calibration.shape == (32, 3, 224, 224)
    # cosine of pictures without their mean: crops of one photograph reach 1, other pictures do not
    tested, used = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (task.inputs.tensors[0], calibration))
    tested, used = (torch.nn.functional.normalize(x) for x in (tested, used))
    assert (tested @ used.T).max() < 0.9
    assert len({x.numpy().tobytes() for x in calibration}) == 32


def test_crops_are_always_the_same() -> None:
    first, second = (photographs.crops(photographs.FLOWER.found()) for _ in range(2))
    assert torch.equal(first, second)
    assert 0 <= first.min() < first.max() <= 1


def test_without_labels_agreement_is_measured_on_another_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "foolbox" else found(name))
    task = photographs.task()
    assert task.targets is None
    assert "agreement" in task.description
    shown, used = (x.tensors[0] for x in (task.inputs, task.calibration))
    assert len(shown) == len(used) == 16
    assert not {x.numpy().tobytes() for x in shown} & {x.numpy().tobytes() for x in used}


def test_the_model_says_what_it_expects(model) -> None:
    told = model.pretrained_cfg
    assert told["mean"] == pytest.approx([127 / 255] * 3)
    assert told["std"] == pytest.approx([128 / 255] * 3)
    assert told["input_size"] == (3, 224, 224)


EIGHT = wb.Recipe(quantization=wb.Quantization(weight_bits=8, activation_bits=8))


def test_eight_bits_change_at_most_one_answer(model, tmp_path) -> None:
    task = zoo.task("efficientnet-lite0")
    plain = wb.Task.fidelity(task.inputs, calibration=task.calibration)
    *_, report = wb.Bench(model, plain, store=Store(tmp_path)).stream(EIGHT)
    assert report.metric.name == "top-1 agreement"
    assert report.accuracy.value >= 0.95


def test_integers_in_onnxruntime_answer_as_the_simulation_does(model, tmp_path) -> None:
    import onnxruntime

    task = zoo.task("efficientnet-lite0")
    inputs, few = task.inputs, task.calibration[::4]
    path = wb.Bench(model, wb.Task.fidelity(inputs, calibration=few), store=Store(tmp_path)).export(
        EIGHT, tmp_path / "model.onnx"
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: inputs.tensors[0].numpy()})
    answers = wb.Task.classification(inputs, torch.from_numpy(logits).argmax(1), calibration=few)
    *_, report = wb.Bench(model, answers, store=Store(tmp_path)).stream(EIGHT)
    assert report.accuracy.value >= 0.95


@needs_labels
def test_the_usual_wrong_normalisation_is_warned_of_and_the_right_one_is_not(model, tmp_path) -> None:
    def warnings(task) -> str:
        stream = wb.Bench(model, task, store=Store(tmp_path)).preflight_stream()
        return " ".join(next(stream).warnings)

    assert "normalis" in warnings(photographs.task(**IMAGENET))
    assert "normalis" not in warnings(zoo.task("efficientnet-lite0"))


def test_weights_of_another_network_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, path)
    monkeypatch.setattr(efficientnet, "WEIGHTS", _At(path))
    with pytest.raises(WorkbenchError, match=r"weights.pth does not fit"):
        efficientnet.model()


def test_a_pickle_among_the_weights_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    path = tmp_path / "weights.pth"
    canary = tmp_path / "canary"
    path.write_bytes(pickle.dumps(_Hostile(str(canary))))
    monkeypatch.setattr(efficientnet, "WEIGHTS", _At(path))
    with pytest.raises(WorkbenchError):
        efficientnet.model()
    assert not canary.exists()


class _Hostile:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


class _At:
    def __init__(self, path) -> None:
        self.checked = lambda: path
