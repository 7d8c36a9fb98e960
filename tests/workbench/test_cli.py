from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from workbench import Quantization, Recipe, Report
from workbench.cli import main
from workbench.delivery import artifact


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORKBENCH_STORE", str(tmp_path / "store"))


def test_measure_prints_a_report_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(Recipe(quantization=Quantization(activation_bits=8, range="minmax")).to_json())
    arguments = ["measure", "seed-cnn", "--recipe", str(recipe), "--weight-bits", "4", "--layer", "fc2=8", "--json"]
    assert main([*arguments, "--runtime", "eager"]) == 0
    report = Report.model_validate(json.loads(capsys.readouterr().out))
    assert report.recipe.quantization == Quantization(
        weight_bits=4, activation_bits=8, range="minmax", layers={"fc2": {"weight_bits": 8}}
    )
    assert report.recipe.deployment.runtime == "eager"
    assert report.complete
    assert report.latency is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed_cnn"], "'seed-cnn'"),
        (["seed-cnn", "--weight-bits", "9"], "weight_bits = 9"),
        (["seed-cnn", "--layer", "fc9=4"], "no layer 'fc9'"),
        (["seed-cnn", "--layer", "fc1"], "NAME=BITS"),
        (["seed-cnn", "--runtime", "tpu"], "no runtime 'tpu'"),
        (["seed-cnn", "--batch", "0"], "batch"),
        (["seed-cnn", "--recipe", "nowhere.json"], "nowhere.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["measure", *arguments]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("workbench: ")
    assert words in told.err
    assert "Traceback" not in told.err


def test_export_writes_a_recipe_and_says_how_it_agrees(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arguments = ["export", "seed-cnn", "--weight-bits", "4", "--layer", "fc2=8", "--to", str(path)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert f"{path}: {path.stat().st_size:,} bytes." in told and "examples" in told
    recipe = Recipe.from_json(artifact.read(path.read_bytes()).recipe)
    assert recipe.quantization == Quantization(weight_bits=4, layers={"fc2": {"weight_bits": 8}})
    assert main(arguments) == 1
    assert "exists; pass overwrite=True" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_frontier_writes_a_file_and_goes_on_from_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "digits.json"
    arguments = ["frontier", "--model", "digits-mlp", "--out", str(path), "--quick"]
    assert main(arguments) == 0
    assert re.search(rf"(\d+) of \1 recipes in {re.escape(str(path))}", capsys.readouterr().out)
    before = path.stat().st_mtime_ns
    assert main(arguments) == 0
    assert "0 of" not in capsys.readouterr().out and path.stat().st_mtime_ns == before
    assert main(["frontier", "--processes", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err


def test_commands_of_other_packages_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "app" in capsys.readouterr().out


def test_the_help_names_every_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    from workbench.runtimes import RUNTIMES

    with pytest.raises(SystemExit):
        main(["measure", "--help"])
    said = capsys.readouterr().out
    assert all(runtime.name in said for runtime in RUNTIMES)
