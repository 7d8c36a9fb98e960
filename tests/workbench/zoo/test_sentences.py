from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import workbench as wb
from workbench import WorkbenchError, zoo
from workbench.store import Store
from workbench.zoo import encoder, retrieval

if "minilm-l6" not in zoo.names():
    pytest.skip(dict(zoo.offers())["minilm-l6"], allow_module_level=True)


@pytest.fixture(scope="module")
def model():
    return zoo.model("minilm-l6")


@pytest.fixture(scope="module")
def bert():
    """The same weights in the model of transformers."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "loading"))
    from torchvision_stub import declare_torchvision

    declare_torchvision()
    transformers = pytest.importorskip("transformers")
    return transformers.BertModel.from_pretrained(encoder.PACKAGE.folder() / "model", local_files_only=True).eval()


@torch.inference_mode()
def vectors(model, sentences) -> torch.Tensor:
    return model(**retrieval.tokens(sentences))


def test_every_question_has_a_passage_of_its_own() -> None:
    questions, passages, others = retrieval.texts()
    assert len(questions) == len(passages) >= 60
    assert len({*questions, *passages, *others}) == 2 * len(passages) + len(others)
    assert len(others) == 40


def test_no_text_is_cut_off() -> None:
    ends = retrieval._tokenizer().token_to_id("[SEP]")
    for texts in retrieval.texts():
        found = retrieval.tokens(texts)
        assert ((found["input_ids"] == ends).sum(1) == 1).all()
        assert found["input_ids"].shape[1] == retrieval.TOKENS
    longest = max(retrieval.tokens(retrieval.texts()[1])["attention_mask"].sum(1))
    assert longest == retrieval.TOKENS


def test_questions_find_their_passages(model) -> None:
    questions, passages, _ = retrieval.texts()
    near = vectors(model, questions) @ vectors(model, passages).T
    first = near.argmax(1) == torch.arange(len(questions))
    assert 0.8 <= first.float().mean() < 1  # room to lose and to gain


def test_the_task_counts_what_the_vectors_say(model, tmp_path) -> None:
    task = zoo.task("minilm-l6")
    questions, passages, _ = retrieval.texts()
    assert len(task) == len(questions) + len(passages)
    report = wb.Bench(model, task, store=Store(tmp_path)).baseline
    near = vectors(model, questions) @ vectors(model, passages).T
    right = near.argsort(1, descending=True)[:, :5] == torch.arange(len(questions))[:, None]
    told = {score.metric.name: score.value.value for score in report.scores}
    assert told["recall@1"] == pytest.approx(float(right[:, 0].float().mean()))
    assert told["recall@5"] == pytest.approx(float(right.any(1).float().mean()))
    assert report.accuracy.value == pytest.approx(1, abs=1e-5)


def test_vectors_are_those_of_transformers(model, bert) -> None:
    given = retrieval.tokens(["A cat sits on the mat.", "How many bits does a weight need, and why?", "no"])
    with torch.inference_mode():
        tokens = bert(**given).last_hidden_state
        mask = given["attention_mask"][..., None]
        wanted = torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1))
        assert torch.allclose(model(**given), wanted, atol=1e-5)


def test_padding_changes_nothing(model) -> None:
    given = retrieval.tokens(["Rounding to a grid costs accuracy."])
    length = int(given["attention_mask"].sum())
    with torch.inference_mode():
        short = model(**{name: tensor[:, :length] for name, tensor in given.items()})
        assert torch.allclose(model(**given), short, atol=1e-5)
        assert float(short.norm()) == pytest.approx(1, abs=1e-5)


def test_calibration_is_about_other_things() -> None:
    task = zoo.task("minilm-l6")
    tested = {tuple(row.tolist()) for row in task.inputs.columns["input_ids"]}
    used = {tuple(row.tolist()) for row in task.calibration.columns["input_ids"]}
    assert len(used) == 40
    assert not tested & used


EIGHT = wb.Recipe(quantization=wb.Quantization(weight_bits=8, activation_bits=8))


@pytest.fixture(scope="module")
def bench(model, tmp_path_factory: pytest.TempPathFactory):
    _, passages, others = retrieval.texts()
    task = wb.Task.embedding(retrieval.tokens(passages[:24]), calibration=retrieval.tokens(others[:16]))
    return wb.Bench(model, task, store=Store(tmp_path_factory.mktemp("store")))


def cosine(bench: wb.Bench, recipe: wb.Recipe) -> float:
    *_, report = bench.stream(recipe)
    return report.accuracy.value


def test_eight_bits_keep_the_vectors(bench) -> None:
    assert cosine(bench, wb.Recipe(quantization=wb.Quantization(weight_bits=8))) >= 0.99
    assert cosine(bench, EIGHT) >= 0.98


def test_integers_in_onnxruntime_say_what_the_simulation_says(model, bench, tmp_path) -> None:
    import onnxruntime

    path = bench.export(EIGHT, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = bench.task.inputs
    given = {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs.tensors, strict=True)}
    (vectors,) = session.run(None, given)
    task = wb.Task.embedding(inputs, reference=torch.from_numpy(vectors), calibration=bench.task.calibration)
    assert cosine(wb.Bench(model, task, store=bench.store), EIGHT) >= 0.995


@pytest.mark.parametrize("text", ["", "{", '{"pairs": [{"question": "Why?"}], "sentences": []}', '{"pairs": 3}'])
def test_harmed_texts_are_refused_in_words(text: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "retrieval").mkdir()
    (tmp_path / retrieval.TEXTS).write_text(text)
    monkeypatch.setattr(retrieval.checkpoints, "data_folder", lambda: tmp_path)
    with pytest.raises(WorkbenchError, match="git checkout"):
        retrieval.texts()
