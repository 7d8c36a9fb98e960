from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

import workbench as wb
from workbench import WorkbenchError, zoo
from workbench.store import Store
from workbench.zoo import checkpoints, packages, tables

if tables.SCIKIT_LEARN.folder() is None:
    pytest.skip("scikit-learn is not installed", allow_module_level=True)


def header(name: str) -> dict:
    return json.loads((checkpoints.data_folder() / "checkpoints" / f"{name}.json").read_text())


def test_digits_are_read_as_well_as_the_header_says() -> None:
    model, test = zoo.model("digits-mlp"), tables.digits().test
    reached = float((model(test.inputs).argmax(1) == test.targets).float().mean())
    assert reached >= 0.97
    assert reached == pytest.approx(header("digits-mlp")["accuracy"], abs=2e-3)


def test_progression_is_predicted_as_well_as_the_header_says() -> None:
    from sklearn.metrics import r2_score

    model, test = zoo.model("diabetes-mlp"), tables.diabetes().test
    reached = r2_score(test.targets.numpy(), model(test.inputs).detach().numpy())
    assert reached >= 0.4
    assert reached == pytest.approx(header("diabetes-mlp")["r_squared"], abs=2e-3)


def test_the_files_hold_what_scikit_learn_loads() -> None:
    from sklearn.datasets import load_diabetes, load_digits

    for split, known, inputs in (
        (tables.digits(), load_digits(), lambda data: data / 16),
        (tables.diabetes(), load_diabetes(scaled=False), None),
    ):
        targets = torch.cat([part.targets.flatten() for part in split])
        assert sorted(targets.tolist()) == sorted(known.target.tolist())
        if inputs is not None:
            ours = np.concatenate([part.inputs.numpy() for part in split])
            theirs = inputs(known.data).astype(np.float32)
            assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
        else:
            # standardised by the training part: exactly so there, nearly so elsewhere
            assert torch.allclose(split.training.inputs.mean(0), torch.zeros(10), atol=1e-4)
            assert torch.allclose(split.training.inputs.std(0), torch.ones(10), atol=1e-4)
            assert split.test.inputs.mean(0).abs().max() < 0.5


@pytest.mark.parametrize(("split", "sizes"), [(tables.digits, (1100, 197, 500)), (tables.diabetes, (292, 50, 100))])
def test_no_row_is_in_two_parts(split, sizes) -> None:
    parts = split()
    assert tuple(len(part.inputs) for part in parts) == sizes
    seen = [{row.numpy().tobytes() for row in part.inputs} for part in parts]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@pytest.mark.parametrize(("name", "metric"), [("digits-mlp", "accuracy"), ("diabetes-mlp", "MAE")])
def test_eight_bits_cost_little_and_two_cost_more(name: str, metric: str, tmp_path) -> None:
    bench = zoo.load(name, store=Store(tmp_path))
    assert bench.baseline.metric.name == metric

    def at(bits: int) -> float:
        *_, report = bench.stream(wb.Recipe(quantization=wb.Quantization(weight_bits=bits, activation_bits=8)))
        return report.drop.value

    scale = 1 if name == "digits-mlp" else float(bench.task.targets.std())
    assert abs(at(8)) < 0.02 * scale
    assert at(2) > max(0.02 * scale, at(8))


@pytest.mark.parametrize(
    "raw",
    [b"", b"no gzip", gzip.compress(b"1,2,3\n", mtime=0), gzip.compress(b"a,b", mtime=0)],
    ids=["empty", "no gzip", "one row", "no numbers"],
)
def test_a_harmed_table_is_refused_in_words(raw: bytes, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(raw)
    monkeypatch.setattr(packages.File, "found", lambda _: path)
    tables.digits.cache_clear()
    with pytest.raises(WorkbenchError, match=r"digits\.csv\.gz.*nstall"):
        tables.digits()
