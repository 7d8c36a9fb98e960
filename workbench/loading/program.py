"""Programs of `torch.export` (`.pt2`), read without `torch.export.load`.

torch's own loader trusts the file: it evaluates size expressions with sympy (that is `eval`), resolves any
dotted name under ``torch.``, executes guard code, unpickles constants and sample inputs, and can load shared
objects. A graph of tensor operators needs none of that. So this door reads the archive's JSON (schema 8,
``torch/_export/serde/schema.py``) and its raw tensors itself, and builds a `torch.fx.GraphModule` from
listed operators alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import LoadError
from workbench.loading.batches import any_batch
from workbench.loading.files import StoredZip, parse_json, reading
from workbench.loading.graphs import DTYPES, Graph
from workbench.loading.layers import expose_layers
from workbench.loading.tensors import view

_SCHEMA = 8
_RESAVE = (
    "Save it again with torch.export.save(torch.export.export(model.eval(), inputs), 'model.pt2') and torch >= 2.9."
)


def from_program(path: Path) -> nn.Module:
    """The program as a plain module in evaluation mode, its layers visible as modules under the parameters' names.

    Returns:
        A `torch.fx.GraphModule`; or a `FixedBatch` around one, where the program was exported for one batch size.

    Raises:
        LoadError: Not such a program, damaged, or it holds anything but tensors and listed operators.
    """
    with StoredZip(path) as archive, reading(path, "a torch.export program"):
        model = _model_name(archive)
        program = parse_json(bytes(archive.read(f"models/{model}.json")), f"{path.name}'s graph")
        version = program["schema_version"]["major"]
        if version != _SCHEMA:
            raise LoadError(f"{path.name} has schema version {version!r}; {_SCHEMA} is read here. {_RESAVE}")
        tensors = _payloads(archive, "weights", f"{model}_weights_config.json")
        tensors |= _payloads(archive, "constants", f"{model}_constants_config.json")
        graph = Graph(program, tensors)
        names: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            names.setdefault(id(tensor), []).append(name)
        module = expose_layers(graph.module, {name: names[id(tensor)] for name, tensor in tensors.items()})
        return any_batch(module.eval(), graph.inputs).eval()


def _model_name(archive: StoredZip) -> str:
    name = archive.path.name
    if "serialized_exported_program.json" in archive or "version" in archive:
        raise LoadError(f"{name} was written by torch < 2.8, in a format that holds pickles. {_RESAVE}")
    if "archive_format" not in archive or bytes(archive.read("archive_format")) != b"pt2":
        raise LoadError(f"{name} is not a torch.export program (it has no archive_format). {_RESAVE}")
    models = [entry[7:-5] for entry in archive.names if entry.startswith("models/") and entry.endswith(".json")]
    if not models and any(entry.startswith("data/aotinductor/") for entry in archive.names):
        raise LoadError(f"{name} holds compiled code (AOTInductor), which is never loaded from a file. {_RESAVE}")
    if not models:
        raise LoadError(f"{name} holds no model. {_RESAVE}")
    if len(models) > 1 and "model" not in models:
        raise LoadError(f"{name} holds several models ({', '.join(models[:10])}). Save the one you mean on its own.")
    return "model" if "model" in models else models[0]


def _payloads(archive: StoredZip, kind: str, config: str) -> dict[str, torch.Tensor]:
    """Parameters, buffers or constants by name; those that share a storage still do.

    Raises:
        LoadError: One is pickled, on no known type, or larger than its bytes.
    """
    entry = f"data/{kind}/{config}"
    if entry not in archive:
        raise LoadError(f"{archive.path.name} has no {entry}; its tensors are pickled, or missing. {_RESAVE}")
    metas = parse_json(bytes(archive.read(entry)), entry)["config"]
    contents: dict[str, bytearray] = {}
    found: dict[str, torch.Tensor] = {}
    whole: dict[tuple[Any, ...], torch.Tensor] = {}
    for name, payload in metas.items():
        meta, record = payload["tensor_meta"], payload["path_name"]
        if payload["use_pickle"] or meta is None:
            raise LoadError(
                f"{archive.path.name}: {name!r} is a pickled object (a tensor subclass or a custom class), "
                "and pickles run code, so it is refused. Export the model with plain tensors."
            )
        if record not in contents:
            contents[record] = archive.read(f"data/{kind}/{record}")
        shape, stride = ([size["as_int"] for size in meta[field]] for field in ("sizes", "strides"))
        offset = meta["storage_offset"]["as_int"]
        place = (record, meta["dtype"], *shape, None, *stride, offset, payload["is_param"])
        if place not in whole:
            tensor = view(contents[record], DTYPES[meta["dtype"]], shape, stride, offset, name)
            wanted = bool(meta["requires_grad"]) and (tensor.is_floating_point() or tensor.is_complex())
            whole[place] = nn.Parameter(tensor, requires_grad=wanted) if payload["is_param"] else tensor
        found[name] = whole[place]
    return found
