from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from workbench.errors import LoadError
from workbench.loading import load

BERT = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 20,
    "max_position_embeddings": 16,
    "num_labels": 3,
}


def written(folder, config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_configuration_without_weights_gives_a_random_model_and_says_so(tmp_path, transformers):
    with pytest.warns(UserWarning, match="no weights"):
        model = load(f"hf:{written(tmp_path / 'm', BERT)}")
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model(torch.ones(2, 4).long()).logits.shape == (2, 3)
    assert not model.training


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_of_a_folder_are_loaded(tmp_path, transformers, kind):
    folder = written(tmp_path / "m", BERT)
    with pytest.warns(UserWarning, match="no weights"):
        model = load(f"hf:{folder}")
    if kind == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    loaded = load(f"hf:{folder}")
    assert same(loaded, model)
    if kind == "safetensors":
        beside = load(folder / "model.safetensors")  # the configuration beside it says what it is
        assert type(beside) is type(model)


def test_weights_that_do_not_fit_are_refused(tmp_path, transformers):
    folder = written(tmp_path / "m", BERT)
    with pytest.warns(UserWarning, match="no weights"):
        state = load(f"hf:{folder}").state_dict()
    del state["classifier.weight"]
    safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(LoadError, match=r"classifier\.weight"):
        load(f"hf:{folder}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"auto_map": {"AutoModel": "modeling.Net"}}, "never run"),
        ({"model_type": "brt"}, "Did you mean 'bert'"),
        ({"architectures": ["os"]}, "no model class"),
        ({"architectures": ["AutoConfig"]}, "no model class"),
        ({"num_hidden_layers": 10**9}, "more than any model"),
        ({"num_hidden_layers": 999}, "declares more than"),
        ({"hidden_size": 10**7}, "declares more than"),
        ({"vocab_size": 10**8}, "declares more than"),
        ({"num_labels": 10**9}, "more than any model"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized already"),
        ({"hidden_size": "wide"}, "cannot be read"),
    ],
)
def test_hostile_configurations_are_refused(tmp_path, transformers, change, words):
    with pytest.raises(LoadError, match=words):
        load(f"hf:{written(tmp_path / 'm', BERT | change)}")


def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path, transformers):
    folder = written(tmp_path / "m", BERT)
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match="outside"):
        load(f"hf:{folder}")


def test_a_folder_of_timm(tmp_path, timm):
    folder = written(tmp_path / "m", {"architecture": "resnet10t", "num_classes": 4, "model_args": {"in_chans": 1}})
    with pytest.warns(UserWarning, match="no weights"):
        model = load(f"timm:{folder}")
    assert model.eval()(torch.rand(1, 1, 32, 32)).shape == (1, 4)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    loaded = load(f"timm:{folder}")
    assert same(loaded, model)
    assert type(load(folder / "model.safetensors")) is type(model)


def test_names_that_timm_does_not_know(tmp_path, timm):
    with pytest.raises(LoadError, match="Did you mean 'resnet1"):
        load("timm:resnet19")
    with pytest.raises(LoadError, match="cannot be set"):
        config = {"architecture": "resnet10t", "model_args": {"checkpoint_path": "/etc/passwd"}}
        load(f"timm:{written(tmp_path / 'm', config)}")


@pytest.mark.parametrize("name", ["hf:no/such", "timm:resnet10t"])
def test_a_name_without_a_network_says_what_was_tried(monkeypatch, tmp_path, timm, transformers, name):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def refuse(repository, *, local_files_only=False, **_):
        asked.append(local_files_only)
        raise ConnectionError("no network")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(LoadError, match=r"local cache has no copy.*hub did not give it"):
        load(name)
    assert asked == [True, False]  # the cache first


def test_a_name_in_the_cache_needs_no_network(monkeypatch, tmp_path, transformers):
    hub = pytest.importorskip("huggingface_hub")
    folder = written(tmp_path / "m", BERT)
    with pytest.warns(UserWarning, match="no weights"):
        state = load(f"hf:{folder}").state_dict()
    safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})

    def cached(repository, *, local_files_only=False, **_):
        assert local_files_only, "the hub was asked though the cache has it"
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", cached)
    assert type(load("hf:some/model")).__name__ == "BertForSequenceClassification"


def test_a_missing_library_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(LoadError, match=r"pip install"):
        load(f"timm:{written(tmp_path / 'm', {})}")


def test_a_model_and_a_scheme_exclude_each_other(tmp_path):
    with pytest.raises(LoadError, match="leave model= out"):
        load("hf:x", model=torch.nn.Linear)
