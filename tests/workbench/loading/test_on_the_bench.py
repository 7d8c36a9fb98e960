"""What the doors let in is measured like any other model: from the file to a report."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch import nn

import workbench as wb

BERT = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "vocab_size": 50,
    "max_position_embeddings": 16,
    "num_labels": 4,
}
W8A8 = wb.Recipe(quantization=wb.Quantization(weight_bits=8, activation_bits=8))


def loaded(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there are no weights in these folders, and load says so
        return wb.load(name)


def measured(model, inputs, store):
    """Preflight and a stream of fidelity; returns both ends."""
    bench = wb.Bench(model, wb.Task.fidelity(inputs), store=store)
    found = bench.preflight()
    *_, report = bench.stream(W8A8)
    assert report.complete
    assert bench.baseline.accuracy.value == 1
    return found, report


def cosine(report: wb.Report) -> float:
    return next(score.value.value for score in report.scores if score.metric.name == "cosine")


def works(found) -> set[tuple[str, str]]:
    return {(check.runtime, check.precision) for check in found.runtimes if check.works}


def test_a_transformers_classifier_from_its_configuration(tmp_path, transformers, store):
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    torch.manual_seed(0)
    ids = torch.randint(1, 50, (40, 9))

    found, report = measured(loaded(f"hf:{tmp_path}"), {"input_ids": ids, "attention_mask": (ids > 5).long()}, store)

    kinds = {layer.kind for layer in found.layers}
    assert {"Linear", "Embedding"} <= kinds
    assert ("onnxruntime", "fp32") in works(found)
    assert cosine(report) > 0.99


def test_a_timm_network_from_its_configuration(tmp_path, timm, store):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 7}))
    torch.manual_seed(0)

    found, report = measured(loaded(f"timm:{tmp_path}"), torch.randn(24, 3, 64, 64), store)

    assert sum(layer.kind == "Conv2d" for layer in found.layers) >= 12
    assert {("onnxruntime", "fp32"), ("onnxruntime", "int8")} <= works(found)
    assert cosine(report) > 0.98


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("kind", ["pt2", "onnx", "safetensors", "pt"])
def test_a_file_gives_the_numbers_of_the_module_that_was_written(tmp_path, store, kind):
    import safetensors.torch

    torch.manual_seed(0)
    model, inputs = Small().eval(), torch.randn(40, 3, 8, 8)
    path = tmp_path / f"net.{kind}"
    if kind == "pt2":
        torch.export.save(torch.export.export(model, (inputs[:2],)), path)
    elif kind == "onnx":
        wb.Bench(model, wb.Task.fidelity(inputs), store=store).export(wb.Recipe(), path)
    elif kind == "safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    again = wb.load(path) if kind in ("pt2", "onnx") else wb.load(path, model=Small)

    _, ours = measured(model, inputs, store)
    found, theirs = measured(again, inputs, store)

    assert sorted(layer.shape for layer in found.layers) == [(5, 8), (8, 3, 3, 3)]
    assert cosine(theirs) == pytest.approx(cosine(ours), abs=1e-3)
    assert theirs.accuracy.value == pytest.approx(ours.accuracy.value, abs=0.03)
