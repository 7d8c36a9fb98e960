"""Models of `transformers` and `timm`: from a local folder, the local hub cache, or the hub by name.

A configuration is as untrusted as a file of weights: it may declare a billion layers. So the model is first
built on the meta device, where nothing is allocated, and its size is compared with the weights that are there.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import LoadError, WorkbenchError, nearest
from workbench.loading.files import parse_json, reading
from workbench.loading.fitting import fit
from workbench.loading.weights import read_weights

_RANDOM_LIMIT = 512 * 2**20
_MOST_TENSORS = 10_000
_LARGEST_INTEGER = 100_000_000
_MOST_REPEATS = 1_000
_MOST_CLASSES = 200_000
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PATTERNS = ["config.json", "model*.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]


def from_transformers(name: str, fields: Mapping[str, Any], *, weights: Path | None = None) -> nn.Module:
    """A model of `transformers`, of the class that its configuration names.

    Args:
        name: A folder with ``config.json`` (and weights), or a name on the hub.
        fields: Replace fields of the configuration.
        weights: The file, where it is not the folder's usual one.

    Raises:
        LoadError: Not installed, not found, needs foreign code, too large, or the weights do not fit.
    """
    transformers = _library("transformers", "hf")
    folder = _folder(name, "hf")
    config_fields = {**_config(folder), **fields}
    if "auto_map" in config_fields:
        raise LoadError(
            f"{name} needs Python code from its own repository (auto_map), which is never run. "
            "Load the model in your own code and pass it to Bench(model, task)."
        )
    if config_fields.get("quantization_config"):
        raise LoadError(f"{name} is quantized already (quantization_config); load its float weights.")
    with reading(folder / "config.json", "a configuration of transformers"):
        known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
        kind = config_fields.get("model_type")
        if not isinstance(kind, str) or kind not in known:
            hint = nearest(str(kind)[:100], known.keys())
            raise LoadError(f"{name}: this transformers has no model_type {kind!r}. {hint}")
        config = known[kind].from_dict(config_fields)
        make = _model_class(transformers, config)
        tensors = _tensors(folder, weights)
        _check_size(lambda: make(config), tensors, name)
        if tensors is None:
            return _random(lambda: make(config), name)
        model, report = make.from_pretrained(None, config=config, state_dict=tensors, output_loading_info=True)
    missing, wrong = sorted(report["missing_keys"]), sorted(map(str, report["mismatched_keys"]))
    if missing or wrong or report.get("error_msgs"):
        raise LoadError(
            f"The weights in {folder} do not fit {make.__name__}: {len(missing)} missing ({', '.join(missing[:5])}), "
            f"{len(wrong)} of a wrong shape ({', '.join(wrong[:5])})."
        )
    if report["unexpected_keys"]:
        unused = sorted(report["unexpected_keys"])
        warnings.warn(f"{make.__name__} has no place for {', '.join(unused[:5])}; they are left out.", stacklevel=3)
    return model.eval()


def from_timm(name: str, arguments: Mapping[str, Any], *, weights: Path | None = None) -> nn.Module:
    """A model of `timm`.

    Args:
        name: A folder with ``config.json`` (and weights), or a model's name; its weights come from the cache or hub.
        arguments: For `timm.create_model`; ``pretrained=False`` gives random weights.
        weights: The file, where it is not the folder's usual one.

    Raises:
        LoadError: Not installed, no such model, too large, or the weights do not fit.
    """
    timm = _library("timm", "timm")
    arguments = dict(arguments)
    wants_weights = arguments.pop("pretrained", True)
    if Path(name).expanduser().is_dir():
        folder: Path | None = Path(name).expanduser()
        config = _config(Path(name).expanduser())
        architecture, given = config.get("architecture"), config.get("model_args", {})
        if not isinstance(architecture, str) or not isinstance(given, dict):
            raise LoadError(f"{name}/config.json has no architecture and model_args, as timm writes them.")
        given = {**given, **({"num_classes": config["num_classes"]} if "num_classes" in config else {}), **arguments}
    else:
        architecture, given, folder = name, arguments, None
    if not timm.is_model(architecture.partition(".")[0]):
        raise LoadError(f"timm has no model {architecture!r}. {nearest(architecture[:100], timm.list_models())}")
    reserved = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"} & set(given)
    if reserved:
        raise LoadError(f"{name}: {', '.join(sorted(reserved))} cannot be set here; weights come from the folder.")
    if folder is None and wants_weights:
        hub = (timm.get_pretrained_cfg(architecture, allow_unregistered=True) or timm.models.PretrainedCfg()).hf_hub_id
        if not hub:
            raise LoadError(f"timm has no weights for {architecture}; pretrained=False gives random ones.")
        folder = _folder(hub, "timm")

    def make() -> nn.Module:
        return timm.create_model(architecture, pretrained=False, **given)

    with reading(Path(f"{name}"), "a model of timm"):
        tensors = _tensors(folder, weights) if folder and wants_weights else None
        _check_size(make, tensors, name)
        return _random(make, name) if tensors is None else fit(make(), tensors, name)


def _library(name: str, extra: str) -> Any:
    try:
        module = __import__(name)
        if name == "transformers":
            module.PreTrainedModel  # noqa: B018 - its parts are imported when they are named
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise LoadError(f"{extra}: needs {name}. Install it with: pip install '{_EXTRA[extra]}'") from None
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise LoadError(
            f"{name} is installed but cannot be imported ({cause}). Often torch and torchvision are of different "
            "builds; install both from the same place."
        ) from error
    return module


_EXTRA = {"hf": "acceleration-workbench[hf]", "timm": "acceleration-workbench[timm]"}


def _folder(name: str, scheme: str) -> Path:
    """The folder itself, or the one in the hub's cache that a name stands for, downloaded if need be."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name, re.ASCII):
        raise LoadError(f"{scheme}:{name} is neither a folder that exists nor a name such as 'organisation/model'.")
    hub = _library("huggingface_hub", scheme)
    try:
        folder = Path(hub.snapshot_download(name, local_files_only=True, allow_patterns=_PATTERNS))
        if any((folder / file).exists() for file in (*_WEIGHTS, "model.safetensors.index.json")):
            return folder
        tried = "the local cache has it without weights"
    except Exception as error:
        tried = f"the local cache has no copy ({type(error).__name__})"
    try:
        return Path(hub.snapshot_download(name, allow_patterns=_PATTERNS, etag_timeout=5))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise LoadError(
            f"{scheme}:{name} was not found: there is no such folder, {tried}, and the hub did not give it "
            f"({type(error).__name__}: {reason}). Download it where there is a network, and name the folder."
        ) from error


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise LoadError(f"{folder} has no config.json, so it is not a model folder.")
    with reading(path, "a configuration"):
        config = parse_json(path.read_bytes(), str(path))
    if not isinstance(config, dict):
        raise LoadError(f"{path} holds a {type(config).__name__}; a configuration is an object.")
    _check_numbers(config, str(path), 0)
    return config


def _check_numbers(value: Any, owner: str, depth: int, key: str = "") -> None:
    """Refuse what no model has: numbers that a constructor would loop over or allocate by for ever."""
    if depth > 20:
        raise LoadError(f"{owner} is nested more than 20 deep.")
    if isinstance(value, dict):
        for name, entry in value.items():
            _check_numbers(entry, owner, depth + 1, str(name))
    elif isinstance(value, list):
        for entry in value:
            _check_numbers(entry, owner, depth + 1, key)
    elif isinstance(value, int | float):
        limit = _LARGEST_INTEGER
        if re.search(r"layer|depth|block|stage|repeat|group|head", key):
            limit = _MOST_REPEATS if "dim" not in key and "size" not in key else limit
        if re.search(r"num_labels|num_classes", key):
            limit = _MOST_CLASSES
        if "theta" not in key and "eps" not in key and abs(value) > limit:
            raise LoadError(f"{owner}: {key} = {value!r:.40} is more than any model has ({limit:,}).")


def _model_class(transformers: Any, config: Any) -> Any:
    names = config.architectures or []
    if not names:
        return transformers.models.auto.modeling_auto.MODEL_MAPPING[type(config)]
    made = getattr(transformers, names[0], None) if isinstance(names[0], str) and names[0].isidentifier() else None
    if not (isinstance(made, type) and issubclass(made, transformers.PreTrainedModel)):
        raise LoadError(f"This transformers has no model class {names[0]!r:.80}, which the configuration names.")
    return made


def _tensors(folder: Path | None, weights: Path | None) -> Mapping[str, Any] | None:
    """All weights of a folder, or None where there are none."""
    if weights is not None:
        return read_weights(weights)
    if folder is None:
        return None
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        with reading(index, "an index of weights"):
            names = sorted(set(parse_json(index.read_bytes(), str(index))["weight_map"].values()))
            if not all(re.fullmatch(r"[\w.-]+\.safetensors", name, re.ASCII) for name in names):
                raise LoadError(f"{index} names files outside of its folder.")
        merged: dict[str, Any] = {}
        for name in names:
            merged |= read_weights(folder / name)
        return merged
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return read_weights(folder / name)
    return None


def _random(make: Callable[[], nn.Module], name: str) -> nn.Module:
    warnings.warn(f"{name} has no weights: the model is random, good for timing but not for accuracy.", stacklevel=4)
    return make().eval()


def _check_size(make: Callable[[], nn.Module], tensors: Mapping[str, Any] | None, name: str) -> None:
    """Build the model without memory, and compare its size with that of the weights.

    Raises:
        LoadError: The configuration declares far more than there is.
    """
    limit, against = _RANDOM_LIMIT, "without weights, no larger model is built"
    if tensors is not None:
        held = sum(t.numel() for t in tensors.values() if isinstance(t, torch.Tensor))
        limit, against = 4 * (4 * held) + 2**24, "its weights have much less"
    with torch.device("meta"), _counted(limit, f"{name}: the configuration declares more than {{}}; {against}."):
        try:
            make()
        except WorkbenchError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error).lower():
                raise  # a few models compute while they are built; their parameters were counted until then


@contextmanager
def _counted(limit: int, message: str) -> Iterator[None]:
    """Raise as soon as the modules that this thread builds have more than `limit` bytes of parameters."""
    mine, total, count = threading.get_ident(), 0, 0

    def hook(_: nn.Module, __: str, parameter: Any) -> None:
        nonlocal total, count
        if threading.get_ident() != mine or parameter is None:
            return
        total, count = total + parameter.numel() * 4, count + 1
        if total > limit or count > _MOST_TENSORS:
            raise LoadError(message.format(f"{limit / 2**20:,.0f} MiB" if total > limit else f"{count:,} tensors"))

    handle = nn.modules.module.register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()
