"""State dicts from `.pt`, `.pth` and `.bin` files, without running their pickle.

`torch.load(weights_only=True)` runs no foreign code, but it takes the memory that a file declares before it
looks whether the bytes are there. So the pickle is only *read* here: `Symbols` steps through its opcodes and
notes what would be called, and nothing is called. Tensors are then cut from the bytes of the file. What is
not a tensor (an optimizer's settings, a class of someone's) stays a note and does no harm.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from workbench.errors import LoadError
from workbench.loading.files import StoredZip, reading
from workbench.loading.symbols import Call, Global, Storage, Symbols
from workbench.loading.tensors import view

RESAVE = (
    "Where the model is defined, save its weights alone, torch.save(model.state_dict(), 'weights.pt') or "
    "safetensors.torch.save_model(model, 'weights.safetensors'), and load them with model=; "
    "or save the whole computation with torch.export.save(torch.export.export(model, inputs), 'model.pt2')."
)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LONGEST_PICKLE = 64 * 2**20


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds: tensors by name, dicts of these (``{"state_dict": {...}, "epoch": 3}``), and notes.

    Raises:
        LoadError: TorchScript, a pickled module, damaged, or declaring more than the file holds.
    """
    with reading(path, "a PyTorch checkpoint"):
        held = _from_zip(path) if zipfile.is_zipfile(path) else _from_legacy(path)
    if isinstance(held, Call):
        raise LoadError(
            f"{path.name} is a pickled {held.name}, not a state dict. Loading it would run code from the file, "
            f"so it is refused. {RESAVE}"
        )
    if not isinstance(held, dict):
        raise LoadError(f"{path.name} holds a {type(held).__name__}, where a dict of tensors was expected. {RESAVE}")
    return held


def _from_zip(path: Path) -> Any:
    with StoredZip(path) as archive:
        if "constants.pkl" in archive or any(name.startswith("code/") for name in archive.names):
            raise LoadError(f"{path.name} is a TorchScript archive, which brings code along; it is refused. {RESAVE}")
        if "archive_format" in archive:
            raise LoadError(f"{path.name} is a program of torch.export; give it the ending .pt2.")
        if "data.pkl" not in archive:
            raise LoadError(f"{path.name} is a zip archive without data.pkl, so not a checkpoint of torch.save.")
        if "byteorder" in archive and bytes(archive.read("byteorder")) != b"little":
            raise LoadError(f"{path.name} was written on a big-endian machine; save it again on this one.")
        if archive.size("data.pkl") > _LONGEST_PICKLE:
            raise LoadError(f"{path.name} has a pickle of {archive.size('data.pkl'):,} bytes.")
        held = Symbols(io.BytesIO(archive.read("data.pkl"))).load()
        contents: dict[str, bytearray] = {}

        def content(storage: Storage) -> bytearray:
            if storage.key not in contents:
                contents[storage.key] = archive.read(f"data/{storage.key}")
            return contents[storage.key]

        return _materialize(held, content)


def _from_legacy(path: Path) -> Any:
    """The format before torch 1.6: five pickles in a row, then each storage as its length and its bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if Symbols(file).load() != _LEGACY_MAGIC:
            file.seek(0)
            held = Symbols(file).load()  # a plain pickle: say what it is, but never load it
            kind = f"of {held.name}" if isinstance(held, Call) else f"of a {type(held).__name__}"
            raise LoadError(f"{path.name} is a pickle {kind} that torch.save did not write, so it is refused. {RESAVE}")
        if Symbols(file).load() != 1001:
            raise LoadError(f"{path.name} was saved with an unknown protocol.")
        if not Symbols(file).load().get("little_endian", True):
            raise LoadError(f"{path.name} was written on a big-endian machine; save it again on this one.")
        reader = Symbols(file)
        held, keys = reader.load(), Symbols(file).load()
        widths = {storage.key: storage.dtype.itemsize for storage in reader.storages}
        contents: dict[str, bytearray] = {}
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            length = count * widths[key]
            if not 0 <= length <= size - file.tell():
                raise LoadError(f"{path.name} is cut short: a storage of {length:,} bytes does not end in it.")
            contents[key] = bytearray(file.read(length))
    return _materialize(held, lambda storage: contents[storage.key])


def _materialize(held: Any, content: Any, name: str = "", depth: int = 0) -> Any:
    """Put tensors in the place of the calls that rebuild them, in a dict and the dicts in it."""
    if isinstance(held, dict):
        if depth > 4:
            return Call("a deeply nested dict", ())
        items = {key: value for key, value in held.items() if isinstance(key, str)}
        return {key: _materialize(value, content, key, depth + 1) for key, value in items.items()}
    if isinstance(held, Call):
        return _tensor(held, content, name)
    return held


def _tensor(call: Call, content: Any, name: str) -> Any:
    """The tensor that a noted call of torch's rebuild functions would make, or the note as it is."""
    match call:
        case Call(
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", (Call() as data, *_)
        ):
            return _tensor(data, content, name)
        case Call("torch._tensor._rebuild_from_type_v2", (Global(function), Global(kind), tuple(args), *_)) if kind in (
            "torch.Tensor",
            "torch._tensor.Tensor",
            "torch.nn.parameter.Parameter",
        ):
            return _tensor(Call(function, args), content, name)
        case Call("torch._utils._rebuild_tensor_v3", (Storage() as storage, offset, shape, stride, _, _, dtype, *_)):
            wide = _dtypes().get(dtype.name) if isinstance(dtype, Global) else None
            return view(content(storage), wide, shape, stride, offset, name) if wide else call
        case Call(
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor",
            (Storage() as storage, offset, tuple(shape), tuple(stride), *_),
        ):
            return view(content(storage), storage.dtype, shape, stride, offset, name)
    return call


def _dtypes() -> dict[str, torch.dtype]:
    return {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
