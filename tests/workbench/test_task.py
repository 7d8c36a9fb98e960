from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from workbench import Task, TaskError
from workbench.inputs import Inputs
from workbench.sources import Examples
from workbench.task import TrainingData

IMAGES = torch.rand(20, 1, 8, 8)
LABELS = torch.arange(20) % 4
VECTORS = torch.rand(20, 5)
TOKENS = torch.arange(120).reshape(20, 6)
NAN, INFINITY = float("nan"), float("inf")

Make = Callable[..., Task]


def holding(value: float, data: Tensor = IMAGES) -> Tensor:
    data = data.clone()
    data[7, ..., -1] = value
    return data


def distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean(1)


KINDS: dict[str, tuple[Make, Tensor | None, dict[str, Any], list[str]]] = {
    "classification": (Task.classification, LABELS, {"classes": 4, "top_k": (2,)}, ["accuracy", "top-2 accuracy"]),
    "multi-label": (Task.multi_label, torch.arange(60).reshape(20, 3) % 2, {}, ["F1", "exact match"]),
    "regression": (Task.regression, torch.rand(20), {"unit": "mm"}, ["MAE", "RMSE", "R²"]),
    "token classification": (Task.token_classification, TOKENS % 3, {}, ["token accuracy"]),
    "segmentation": (Task.segmentation, torch.arange(1280).reshape(20, 8, 8) % 3, {"classes": 3}, ["mIoU"]),
    "own score": (Task.scored, VECTORS, {"score": distance, "metric": "distance"}, ["distance"]),
    "fidelity": (Task.fidelity, None, {}, []),
    "embedding": (Task.embedding, None, {}, ["cosine"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sets_a_tenth_aside_at_random(kind: str) -> None:
    make, targets, options, metrics = KINDS[kind]
    numbered = torch.arange(20.0)[:, None, None, None].expand(20, 1, 8, 8)
    task = make(numbered, **options) if targets is None else make(numbered, targets, **options)
    assert task.name == kind
    assert [metric.info.name for metric in task.metrics] == metrics
    assert (len(task), len(task.calibration)) == (18, 2)
    kept, aside = (inputs.tensors[0][:, 0, 0, 0].long() for inputs in (task.inputs, task.calibration))
    assert sorted([*kept.tolist(), *aside.tolist()]) == list(range(20))
    assert kept.tolist() == sorted(kept.tolist())
    assert kept.tolist() != list(range(18))  # the end of a sorted file would be one class
    if targets is None:
        assert task.targets is None
    else:
        torch.testing.assert_close(task.targets, targets[kept], check_dtype=False)
    again = make(numbered, **options) if targets is None else make(numbered, targets, **options)
    assert task.key == again.key


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_targets_that_come_with_the_data(kind: str) -> None:
    make, targets, options, _ = KINDS[kind]
    given = LABELS if targets is None else targets
    loader = DataLoader(TensorDataset(IMAGES, given), batch_size=6)
    task = make(loader, calibration=IMAGES + 1, **options)
    assert torch.equal(task.inputs.tensors[0], IMAGES)
    if targets is None:
        assert task.targets is None
    else:
        torch.testing.assert_close(task.targets, targets, check_dtype=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": IMAGES[:0]}, "^inputs: at least one example is needed; there is none"),
        ({"inputs": holding(NAN)}, "^inputs: example 7 holds NaN or infinity"),
        ({"inputs": holding(-INFINITY)}, "^inputs: example 7"),
        ({"inputs": torch.rand(20)}, r"^inputs: .* shape \(n, ...\); this has shape \(20,\)"),
        ({"inputs": DataLoader(TensorDataset(IMAGES), shuffle=True)}, "^inputs: the loader shuffles"),
        ({"inputs": "pictures"}, "^inputs: 'pictures' is a path"),
        ({"calibration": IMAGES[:0]}, "^calibration: at least one example"),
        ({"calibration": holding(NAN)}, "^calibration: example 7 holds NaN"),
        ({"calibration": holding(INFINITY)}, "^calibration: example 7"),
        ({"calibration": torch.rand(4, 3, 8, 8)}, r"^calibration: examples have shape \(3, 8, 8\)"),
        ({"calibration": torch.rand(4, 8)}, r"^calibration: examples have shape \(8,\)"),
        ({"calibration": {"x": IMAGES}}, "^calibration: its arguments are x, those of the evaluation 0"),
        ({"calibration": 3}, "^calibration: a torch.Tensor"),
        ({"calibration": ["text"]}, r"^calibration: an example holds no numbers, only '0' \(str\)"),
    ],
)
def test_bad_inputs_are_named_by_every_kind(kind: str, changes: dict[str, Any], words: str) -> None:
    make, targets, options, _ = KINDS[kind]
    data = {"inputs": IMAGES, "calibration": IMAGES} | changes
    data |= {} if targets is None else {"targets": targets}
    with pytest.raises(TaskError, match=words):
        make(**data, **options)


FRACTIONS = torch.rand(20, 3) / 2 + 0.25
MASKS = KINDS["segmentation"][1]


@pytest.mark.parametrize(
    ("kind", "targets", "words"),
    [
        ("classification", None, r"one whole class index per example.*\(20,\); this is NoneType"),
        ("classification", LABELS[:5], r"one whole class index per example.*\(20,\); this is \(5,\)"),
        ("classification", LABELS.float(), "one whole class index"),
        ("classification", LABELS[:, None], r"one whole class index.*\(20, 1\)"),
        ("classification", LABELS - 1, "label -1 is out of range; with 4 classes they go from 0 to 3"),
        ("classification", LABELS + 1, "label 4 is out of range"),
        ("classification", LABELS * 0 + 2, "all 20 examples have class 2; accuracy would say nothing"),
        ("multi-label", None, "one 0 or 1 per label.* there are none. Pass `targets`, or use Task.fidelity"),
        ("multi-label", LABELS, r"one 0 or 1 per label.*shape \(20,\)"),
        ("multi-label", FRACTIONS, "labels are 0 or 1; there are other values"),
        ("multi-label", LABELS[:5, None], r"for 20 examples; these have shape \(5, 1\)"),
        ("regression", None, "one number or more per example is needed; there are none"),
        ("regression", holding(NAN, VECTORS), "example 7 holds NaN or infinity"),
        ("regression", VECTORS[:3], r"for 20 examples; these have shape \(3, 5\)"),
        ("regression", torch.tensor(1.0), "one entry per example"),
        ("token classification", None, "one class index per token.* there are none"),
        ("token classification", LABELS, r"one class index per token.*shape \(20,\)"),
        ("token classification", VECTORS, "one class index per token"),
        ("segmentation", None, "one class index per pixel.* there are none"),
        ("segmentation", MASKS.float(), "one class index per pixel"),
        ("segmentation", MASKS[:, 0], r"one class index per pixel.*\(20, 8\)"),
        ("segmentation", MASKS + 1, "with 3 classes they go from 0 to 2, and 255 does not count; there are .*3"),
        ("segmentation", MASKS * 0 + 255, "with 3 classes they go"),
        ("own score", VECTORS[:4], "one per example is needed; there are 4 for 20"),
        ("own score", holding(NAN, VECTORS), "example 7 holds NaN"),
    ],
)
def test_bad_targets_are_named(kind: str, targets: Tensor | None, words: str) -> None:
    make, _, options, _ = KINDS[kind]
    with pytest.raises(TaskError, match=f"^targets: .*{words}|^targets: {words}"):
        make(IMAGES, targets, calibration=IMAGES, **options)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ((IMAGES, LABELS + 9), "training targets: label 12"),
        ((IMAGES, LABELS[:3]), "training targets: one whole class index"),
        ((IMAGES[:, :, :4], LABELS), "training inputs: examples have shape"),
        ((holding(NAN), LABELS), "training inputs: example 7 holds NaN"),
    ],
)
def test_bad_training_data_is_named(training: tuple[Tensor, Tensor], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        Task.classification(IMAGES, LABELS, calibration=IMAGES, classes=4, training=training)


def test_training_data_is_read_once_and_checked() -> None:
    read = []

    def reading() -> tuple[Tensor, Tensor]:
        read.append(1)
        return IMAGES, LABELS

    task = Task.classification(IMAGES, LABELS, training=TrainingData(20, reading))
    assert not read
    assert task.training_key == task.training_key
    assert torch.equal(task.training.tensors[0], IMAGES)
    assert read == [1]
    with pytest.raises(TaskError, match="21 examples were announced, 20 came"):
        _ = TrainingData(21, reading).tensors


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibration": None}, "a search needs `calibration` inputs of its own"),
        ({"relevant": (2,)}, r"one relevant example among the documents.*wrong: \[1\]"),
        ({"relevant": (2, 9)}, r"wrong: \[9\]"),
        ({"queries": (0, 20)}, r"indices go from 0 to 19; wrong: \[20\]"),
        ({"documents": (2, 3, -1)}, r"wrong: \[-1\]"),
    ],
)
def test_bad_searches_are_named(changes: dict[str, Any], words: str) -> None:
    search = {"queries": (0, 1), "documents": (2, 3, 4), "relevant": (3, 2), "calibration": VECTORS}
    task = Task.embedding(VECTORS, **search, recall_at=(1, 2))
    assert [metric.info.name for metric in task.metrics] == ["cosine", "recall@1", "recall@2"]
    assert task.metrics[1].relevant.tolist() == [1, 0]
    assert task.key != Task.embedding(VECTORS, **(search | {"relevant": (2, 3)}), recall_at=(1, 2)).key
    with pytest.raises(TaskError, match=words):
        Task.embedding(VECTORS, **(search | changes))


def test_a_reference_for_vectors_replaces_the_models_own() -> None:
    assert torch.equal(Task.embedding(IMAGES, reference=VECTORS, calibration=IMAGES).targets, VECTORS)
    with pytest.raises(TaskError, match="targets: one per example is needed; there are 3 for 20"):
        Task.embedding(IMAGES, reference=VECTORS[:3])
    with pytest.raises(TaskError, match="targets: example 7 holds NaN"):
        Task.embedding(IMAGES, reference=holding(NAN, VECTORS))


def test_calibration_is_capped_and_the_key_follows_the_data() -> None:
    calibration = torch.rand(900, 1, 8, 8)
    task = Task.classification(IMAGES, LABELS, calibration=calibration, classes=4)
    assert torch.equal(task.calibration.tensors[0], calibration[:512])
    assert (
        Task.classification(IMAGES.clone(), LABELS.clone(), calibration=calibration.clone(), classes=4).key == task.key
    )
    changed = [
        Task.classification(holding(0.5), LABELS, calibration=calibration, classes=4),
        Task.classification(IMAGES, LABELS.flip(0), calibration=calibration, classes=4),
        Task.classification(IMAGES, LABELS, calibration=calibration + 1, classes=4),
        Task.classification(IMAGES, LABELS, calibration=calibration, classes=4, top_k=(2,)),
        Task.classification(IMAGES, LABELS, calibration=calibration, classes=4, name="other"),
        Task.classification(IMAGES, LABELS, calibration=calibration, classes=4, output="logits"),
    ]
    assert len({task.key, *(other.key for other in changed)}) == 7


def test_the_key_does_not_follow_where_a_function_lies() -> None:
    def second(output: Any) -> Tensor:
        return output[1]

    def other(output: Any) -> Tensor:
        return output[0]

    keys = [Task.fidelity(IMAGES, output=each).key for each in (second, other)]
    assert keys[0] != keys[1]
    assert " at 0x" not in repr(second.__qualname__)
    again = type(second)(second.__code__, {}, "second")
    again.__qualname__ = second.__qualname__
    assert Task.fidelity(IMAGES, output=again).key == keys[0]


def test_inputs_of_several_arguments_and_lengths() -> None:
    texts = [{"input_ids": list(range(1 + i % 3)), "mask": [1] * (1 + i % 3), "label": i % 2} for i in range(20)]
    task = Task.classification(texts, calibration=texts)
    assert not task.inputs.uniform
    assert list(task.calibration.columns) == ["input_ids", "mask"]
    assert task.notes == ("targets are taken from 'label'",)
    longer = {"input_ids": torch.arange(40).reshape(4, 10), "mask": torch.ones(4, 10, dtype=torch.int64)}
    assert len(Task.classification(texts, calibration=longer).calibration) == 4
    assert len(Task.fidelity((IMAGES, VECTORS))) == 18


def test_tokens_of_padded_batches_are_scored_up_to_their_width() -> None:
    texts = [{"ids": list(range(2 + i % 2)), "labels": [1] * (2 + i % 2)} for i in range(8)]
    task = Task.token_classification(texts, calibration=texts)
    outputs = torch.nn.functional.one_hot(torch.ones(8, 3, dtype=torch.int64), 3).float()
    for index in task.inputs.batches(torch.arange(8), 4):
        width = task.inputs[index].tensors[0].shape[1]
        statistics = task.metrics[0].statistics(outputs[index, :width], task.targets[index])
        assert statistics.tolist() == [[width, width]] * len(index)


def test_one_example_calibrates_itself() -> None:
    task = Task.fidelity(IMAGES[:1])
    assert (len(task), len(task.calibration)) == (1, 1)


def test_classes_are_named_by_the_data_or_the_user() -> None:
    data = Examples(Inputs(IMAGES), LABELS, ("a", "b", "c", "d"), ("3 were left out",))
    task = Task.classification(data)
    assert (task.classes, task.notes) == (("a", "b", "c", "d"), ("3 were left out",))
    assert Task.classification(data, classes=list("wxyz")).classes == ("w", "x", "y", "z")
    assert Task.classification(IMAGES, np.array(list("dabc") * 5)).classes == ("a", "b", "c", "d")
    assert Task.segmentation(IMAGES, MASKS, classes=3).classes == ("0", "1", "2")


def test_fidelity_chooses_by_the_form_of_the_output() -> None:
    task = Task.fidelity(IMAGES)
    assert task.description == "agreement with fp32 on 18 examples"
    assert repr(task) == "Task('fidelity', 18 examples: Inputs(18 × (1, 8, 8)))"
    names = {
        shape: [metric.info.name for metric in task.metrics_for(torch.rand(shape))]
        for shape in ((4, 10), (4, 1), (4, 6, 3))
    }
    assert names[4, 10] == ["top-1 agreement", "cosine", "SQNR"]
    assert names[4, 1] == names[4, 6, 3] == ["cosine", "SQNR"]
    own = Task.scored(IMAGES, score=distance)
    assert own.metrics_for(torch.rand(4, 10)) == own.metrics
