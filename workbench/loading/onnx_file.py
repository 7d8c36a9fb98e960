"""Reading an ONNX file that nobody vouches for.

An ONNX file is a protocol buffer: parsing it runs no code. What it *declares* is not to be believed:
tensors larger than the bytes that are there, weights kept in a file outside its folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from workbench.errors import LoadError

LARGEST = 2**31 - 1  # bytes; protocol buffers end here
OLDEST_OPSET = 7
DEEPEST = 16  # graphs within graphs

_BITS: dict[int, int] = {
    **dict.fromkeys((TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8), 8),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 16),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 32),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 64),
    **dict.fromkeys((TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1), 4),
    **dict.fromkeys(
        (
            TensorProto.FLOAT8E4M3FN,
            TensorProto.FLOAT8E4M3FNUZ,
            TensorProto.FLOAT8E5M2,
            TensorProto.FLOAT8E5M2FNUZ,
        ),
        8,
    ),
    TensorProto.COMPLEX128: 128,
}


def read_onnx(source: Path | bytes) -> onnx.ModelProto:
    """Parse a model and bring in its external data, believing no size that it declares.

    Nodes without a name get one, and constants that are nodes become initializers, so that whoever
    changes weights finds all of them in one place.

    Args:
        source: The file, or its content. External data is only read for a file, and only from its folder.

    Raises:
        LoadError: It cannot be read, is no ONNX model, or declares what is not there.
    """
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise LoadError(f"{source!s} cannot be read: {error.strerror or error}.") from error
    try:
        proto = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise LoadError("This is not an ONNX model, or a part of the file is missing. Export it again.") from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise LoadError("The ONNX file has no graph with operators in it. Export it again.")
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is None or opset < OLDEST_OPSET:
        raise LoadError(
            f"The ONNX file names opset {opset}; {OLDEST_OPSET} or newer is needed. "
            "Convert it with onnx.version_converter, or export it again."
        )
    _bring_in(proto, None if isinstance(source, bytes) else source.parent)
    _free_sizes(proto.graph)
    _name_nodes(proto.graph)
    if proto.ir_version >= 4:  # before, an initializer had to be an input as well
        _lift_constants(proto.graph)
    return proto


def _bring_in(proto: onnx.ModelProto, folder: Path | None) -> None:
    """Check every tensor, and replace external data by the bytes themselves."""
    files: dict[Path, int] = {}
    read = 0
    for tensor in _tensors(proto):
        size = _declared_bytes(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            path, offset, length = _external(tensor, folder)
            files[path] = path.stat().st_size
            if length is None:
                length = size
            if length != size or offset + length > files[path]:
                raise LoadError(
                    f"The tensor {tensor.name!r} declares {size} bytes; {path.name} has "
                    f"{max(0, min(length, files[path] - offset))} for it. Copy the file again, whole."
                )
            read += length
            if read > 2 * sum(files.values()) or read > LARGEST:
                raise LoadError("The tensors of the ONNX file declare more data than its files hold, or than 2 GiB.")
            with path.open("rb") as file:
                file.seek(offset)
                tensor.raw_data = file.read(length)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
        elif tensor.data_type != TensorProto.STRING and not _data_matches(tensor, size):
            raise LoadError(
                f"The tensor {tensor.name!r} declares the shape {list(tensor.dims)[:8]}, {size} bytes; "
                "the file holds another number. Export it again."
            )


def _tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor anywhere in the model. A stack, for a hostile file nests deeply."""
    graphs: list[tuple[onnx.GraphProto | onnx.FunctionProto, int]] = [(proto.graph, 0)]
    graphs += [(function, 1) for function in proto.functions]
    while graphs:
        graph, depth = graphs.pop()
        if depth > DEEPEST:
            raise LoadError(f"The ONNX file has graphs nested more than {DEEPEST} deep.")
        if isinstance(graph, onnx.GraphProto):
            if graph.sparse_initializer:
                raise LoadError("The ONNX file holds sparse weights; store them dense.")
            yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                    raise LoadError("The ONNX file holds sparse weights; store them dense.")
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    graphs.append((attribute.g, depth + 1))
                graphs += [(inner, depth + 1) for inner in attribute.graphs]


def _declared_bytes(tensor: TensorProto) -> int:
    if any(size < 0 for size in tensor.dims):
        raise LoadError(f"The tensor {tensor.name!r} declares a negative size: {list(tensor.dims)[:8]}.")
    if tensor.data_type == TensorProto.STRING:
        return 0
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        raise LoadError(f"The tensor {tensor.name!r} has the unknown data type {tensor.data_type}.")
    return -(-math.prod(tensor.dims) * bits // 8)


def _data_matches(tensor: TensorProto, size: int) -> bool:
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data) == size
    elements = math.prod(tensor.dims)
    bits = _BITS[tensor.data_type]
    if tensor.data_type in (TensorProto.FLOAT, TensorProto.COMPLEX64):
        return len(tensor.float_data) == elements * bits // 32
    if tensor.data_type in (TensorProto.DOUBLE, TensorProto.COMPLEX128):
        return len(tensor.double_data) == elements * bits // 64
    if tensor.data_type == TensorProto.INT64:
        return len(tensor.int64_data) == elements
    if tensor.data_type in (TensorProto.UINT32, TensorProto.UINT64):
        return len(tensor.uint64_data) == elements
    return len(tensor.int32_data) == (elements if bits > 4 else -(-elements // 2))


def _external(tensor: TensorProto, folder: Path | None) -> tuple[Path, int, int | None]:
    """Where the bytes of a tensor are: the file, the offset, and the length where it is named."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise LoadError(f"The tensor {tensor.name!r} is kept in the file {location!r}; load the model from its path.")
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    outside = posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts)
    if not location or "\0" in location or outside:
        raise LoadError(
            f"The tensor {tensor.name!r} is kept in {location!r}, which is outside of the model's folder. "
            "It is not read; save the model with its data beside it."
        )
    try:
        path = (folder / location).resolve(strict=True)
        inside = path.is_relative_to(folder.resolve(strict=True)) and path.is_file()
    except (OSError, RuntimeError) as error:
        raise LoadError(f"The data file {location!r} of the model is not there. Put it beside the model.") from error
    if not inside:
        raise LoadError(f"The data file {location!r} is not a file within the model's folder; it is not read.")
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError as error:
        raise LoadError(f"The tensor {tensor.name!r} names no number as its place in {location!r}.") from error
    if offset < 0 or (length is not None and length < 0):
        raise LoadError(f"The tensor {tensor.name!r} names a negative place in {location!r}.")
    return path, offset, length


def _free_sizes(graph: onnx.GraphProto) -> None:
    """Some exporters write -1 for a size that is free; nothing else below zero is a size."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value < -1:
                raise LoadError(f"The value {value.name!r} declares the negative size {size.dim_value}.")
            if size.dim_value == -1:
                size.ClearField("dim_value")


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            name = f"{node.op_type}_{number}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)


def _lift_constants(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        value = node.attribute[0] if len(node.attribute) == 1 else None
        constant = node.op_type == "Constant" and node.domain == "" and len(node.output) == 1
        if constant and value is not None and value.name == "value" and value.HasField("t"):
            tensor = graph.initializer.add()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
